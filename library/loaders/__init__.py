"""How UIs read LoRA files, written from their rules. Nothing here knows how our files are written: it checks them."""
