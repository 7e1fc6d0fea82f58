"""Methods of compression: plans, rate control, artifacts."""
