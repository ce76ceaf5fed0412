"""What a run writes: LoRA files, metadata, states."""
