"""What UIs make of LoRA files."""
