"""Ternary layers that contexts shorten."""

import numpy as np


def draw(rng, shape):
  """Codes that repeat from tap to tap and differ between the channels."""
  dense = rng.random(shape[-2:]) ** 4 * rng.random(shape[-1]) ** 2
  kept = rng.random(shape) < 2 * dense
  codes = kept * np.where(rng.random(shape[-2:]) < 0.5, 1, -1)
  return (codes * np.where(rng.random(shape) < 0.1, -1, 1)).astype(np.int8)
