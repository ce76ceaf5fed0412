"""Measures what a LoRA learned and what it broke, on pictures with and without it."""
