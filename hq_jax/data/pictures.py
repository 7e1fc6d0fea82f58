"""Test images as the model sees them, for people to look at."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from hq_jax.data import eval_batches
from hq_jax.data import sources
from hq_jax.data.images import threaded_reader


@dataclasses.dataclass(frozen=True)
class _Part:
  """Some examples of a split."""

  source: sources.Source
  indices: Sequence[int]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[self.indices[index]]


def read(
  source: sources.Source,
  indices: Sequence[int],
  preprocessing: Mapping[str, Any],
) -> dict[int, np.ndarray]:
  """Reads images by their index, uint8 `[h, w, c]` from black to white.

  They are cropped and resized as for the model. Those that cannot be read any
  more are left out.
  """
  if not indices:
    return {}
  (batch,) = eval_batches.EvalBatches(
    _Part(source, indices),
    preprocessing=preprocessing,
    batch_size=len(indices),
    unreadable=threaded_reader.Unreadable(len(indices)),
  )
  low, high = preprocessing['pixel_min'], preprocessing['pixel_max']
  pixels = batch['image'] * preprocessing['std'] + preprocessing['mean']
  pixels = np.clip((pixels - low) / (high - low), 0.0, 1.0)
  images = np.round(255 * pixels).astype(np.uint8)
  return {
    index: image
    for index, image, valid in zip(indices, images, batch['valid'], strict=True)
    if valid
  }
