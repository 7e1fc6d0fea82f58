"""Data sets that TFDS has prepared."""
