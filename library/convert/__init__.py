"""LoRA files after training: converted, merged, shrunk, or baked into a checkpoint."""
