"""Layouts of LoRA files."""
