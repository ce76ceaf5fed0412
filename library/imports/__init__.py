"""Settings of other trainers as a TOML of ours: which they are (`command`), and what each of theirs means."""
