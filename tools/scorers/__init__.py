"""Weights of scorers from package registries, and conversion of pickled ones to safetensors. Never used at run time."""
