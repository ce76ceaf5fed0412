"""The model of a run with its adapters, concept embeddings and branches."""
