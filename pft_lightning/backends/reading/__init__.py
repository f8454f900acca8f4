"""What model files hold, found without running any of it."""
