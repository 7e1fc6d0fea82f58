"""State dictionaries in torchvision's names, drawn from a seed."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any
import zlib

import numpy as np

# What torchvision said: see make_logits.py.
RECORDED = pathlib.Path(__file__).parent / 'logits.json'

SEED = 7
NUM_CLASSES = 20
# One even side and one odd, on which paddings differ.
IMAGE_SHAPE = (2, 64, 65, 3)

# Where the uniform numbers of a vector lie, the bias of a classifier as well.
_RANGES = {
  'weight': (0.5, 1.2),
  'bias': (-0.5, 0.5),
  'running_mean': (-0.5, 0.5),
  'running_var': (0.5, 1.5),
}


def draw_uniform(name: str, shape: Sequence[int], low: float, high: float):
  """Uniform float32 numbers that depend on a name, a shape and the seed alone.

  Of the generator's raw stream, which every release of NumPy has the same.
  """
  stream = np.random.Philox(key=[SEED, zlib.crc32(name.encode())])
  raw = stream.random_raw(int(np.prod(shape))).reshape(shape)
  unit = (raw >> np.uint64(11)) * 2.0**-53
  return (low + (high - low) * unit).astype(np.float32)


def draw_images():
  """Images `[n, h, w, c]` as a network sees them, mean 0 and variance 1."""
  return draw_uniform('images', IMAGE_SHAPE, -(3**0.5), 3**0.5)


def draw_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
  """Weights under which activations neither vanish nor explode."""
  state = {}
  for name, shape in shapes.items():
    kind = name.rpartition('.')[2]
    if kind == 'num_batches_tracked':
      state[name] = np.zeros((), np.int64)
      continue
    low, high = _RANGES[kind]
    if len(shape) > 1:
      # A variance of 2 / fan_in, as He et al. have it.
      high = (6 / np.prod(shape[1:])) ** 0.5
      low = -high
    state[name] = draw_uniform(name, shape, low, high)
  return state


def load_recorded() -> dict[str, dict[str, Any]]:
  """Shapes and logits of torchvision, by network."""
  return json.loads(RECORDED.read_text(encoding='utf-8'))
