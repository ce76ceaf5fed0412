"""Does the model learn the concept and nothing else? Methods against each other, where the truth is known exactly."""
