"""What looks at pictures: encoders, text-image scorers, mask generators, and the weights that they need."""
