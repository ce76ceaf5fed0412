"""Settings of other trainers, turned into a TOML of ours."""
