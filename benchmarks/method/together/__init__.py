"""Several concepts in one model: what is lost by being together, and how much each shows in the others' pictures."""
