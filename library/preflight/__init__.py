"""What is known before anything is computed: plan, forecast, doctor."""
