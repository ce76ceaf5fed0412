"""Settings: what they are (`settings`), how they are declared (`fields`) and read (`files`, `dataset`)."""
