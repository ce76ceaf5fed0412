"""Captions by a vision-language model, composed by one rule: name everything but the concept."""
