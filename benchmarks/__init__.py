"""Benchmarks: the cost of a step, relative to a plain LoRA step in the same run."""
