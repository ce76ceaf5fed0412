"""Weights of scorers that package registries carry, and pickled ones turned into safetensors. Never at run time."""
