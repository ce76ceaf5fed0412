"""How UIs read LoRA files."""
