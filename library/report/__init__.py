"""What the user sees: progress, logs, plots and contact sheets."""
