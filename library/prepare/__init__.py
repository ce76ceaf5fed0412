"""Everything that is computed once before training, and cached."""
