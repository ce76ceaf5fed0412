"""What a run knows before it computes anything: plan, forecast, doctor."""
