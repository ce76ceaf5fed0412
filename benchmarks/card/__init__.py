"""What a card makes of this trainer, asked by one command: see `benchmarks.card.__main__`."""
