"""Benchmarks: what a step costs, as a ratio against the plain LoRA step of the same run."""
