"""What is computed once before training, and cached."""
