"""Settings: what they are (`settings`, `dataset`), how declared (`fields`) and read (`files`, `dataset_file`)."""
