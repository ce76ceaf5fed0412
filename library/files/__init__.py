"""Files and folders: atomic writes, locks, fingerprints, checkpoints, the cache."""
