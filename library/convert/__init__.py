"""LoRA files after training: from layout to layout, several made one, made smaller, or put into a checkpoint."""
