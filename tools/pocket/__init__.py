"""The pocket SD3: a world drawn by code, and the recipe that trains a small Stable Diffusion 3.5 on it."""
