"""Drawing pictures: prompts, sampling, sheets, generation."""
