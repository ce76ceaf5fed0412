"""How the weights lie in memory, and what is counted of it."""
