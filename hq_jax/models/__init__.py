"""Models in plain Flax; they know nothing of quantization."""
