"""Accuracy at equal file size: this library, its baselines, its own parts."""
