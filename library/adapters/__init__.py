"""Several LoRA adapters on one set of frozen weights, chosen row by row; and the files they are saved in."""
