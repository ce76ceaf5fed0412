"""Model files and folders: what they are, and the weights in them."""
