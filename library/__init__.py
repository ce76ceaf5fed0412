"""PureCC: learns a concept and nothing else, as a LoRA on Stable Diffusion 3 / 3.5."""

__version__ = "0.1.0"
