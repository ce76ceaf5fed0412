"""What a LoRA learned and what it broke: pictures with and without it, measured."""
