"""How the weights are in memory, and what is counted of it."""
