"""Accuracy at equal file size: this library, its rivals, its own parts."""
