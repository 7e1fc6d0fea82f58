"""Glyphs: generated images of letters and digits."""
