"""Several LoRA adapters on one set of frozen weights, chosen per row, and the files they are saved in."""
