"""Random access to the examples of a split, on disk or in memory."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from hq_jax.data.images import decode

_NUM_MEASURED = 4096  # images at a time


class Source(Protocol):
  """Random access to the examples of one split.

  An example is a dict of `image` (uint8 `[h, w, c]`, or the bytes of an image
  file), `label` (an int), and, where images may be unreadable, `name`.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class MemorySource:
  """A split held in memory; `source[i]` is example i.

  Attributes:
    images: uint8, `[n, h, w, c]`.
    labels: int32, `[n]`.
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {'image': self.images[index], 'label': int(self.labels[index])}


@dataclasses.dataclass(frozen=True)
class DecodedSource:
  """A split of image files of one size, as arrays; `source[i]` is example i.

  Attributes:
    files: whose `image` are bytes.
    image_shape: `(h, w, c)` of every image.
  """

  files: Source
  image_shape: tuple[int, int, int]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self.files[index]
    image = decode.decode(example['image'], channels=self.image_shape[-1])
    if image.shape != self.image_shape:
      raise ValueError(
        f'{example["name"]}: image is {image.shape}, wanted {self.image_shape}'
      )
    return {'image': image, 'label': example['label']}


@dataclasses.dataclass(frozen=True)
class SpreadSource:
  """Some examples of a split, at equal distances; all where it has no more.

  Attributes:
    source: the split.
    most: how many, at most.
  """

  source: Source
  most: int

  def __len__(self) -> int:
    return min(self.most, len(self.source))

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[index * len(self.source) // len(self)]


def find_shape(splits: Sequence[Source]) -> tuple[int, int, int]:
  """The `(h, w, c)` of all image files, with one channel if all are grey.

  Refuses images of more than one size, and any that cannot be read.
  """
  sizes: dict[tuple[int, int], str] = {}
  is_grey = True
  places = ((split, i) for split in splits for i in range(len(split)))
  for split, index in places:
    example = split[index]
    name = example['name']
    try:
      opened = decode.read_header(example['image'], is_cropped=False)
    except decode.UnreadableImage as error:
      raise ValueError(f'{name}: {error}') from error
    sizes.setdefault(decode.get_upright_size(opened), name)
    is_grey = is_grey and decode.is_grey(opened)
    if len(sizes) > 1:
      found = ', '.join(f'{x} {w} x {h}' for (w, h), x in sizes.items())
      raise ValueError(
        f'config.data.image_size is None, but images have more than one size'
        f' ({found}), wanted a number of pixels'
      )
  ((width, height),) = sizes
  return height, width, 1 if is_grey else 3


def measure(
  source: Source, num_channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel's pixels, of 0 to 255."""
  counts = np.zeros((num_channels, 256), np.int64)
  for first in range(0, len(source), _NUM_MEASURED):
    some = range(first, min(first + _NUM_MEASURED, len(source)))
    images, _ = gather(source, np.array(some))
    for channel in range(num_channels):
      pixels = images[..., channel].ravel()
      counts[channel] += np.bincount(pixels, minlength=256)
  levels, means, deviations = np.arange(256), [], []
  for shares in counts / np.maximum(counts.sum(axis=1, keepdims=True), 1):
    mean = float(shares @ levels)
    means.append(round(mean, 3))
    # A channel that says nothing stays as it is.
    deviation = math.sqrt(shares @ (levels - mean) ** 2)
    deviations.append(round(deviation, 3) or 1.0)
  return tuple(means), tuple(deviations)


def gather(
  source: Source, indices: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Reads examples, in the order asked for, as two arrays."""
  if isinstance(source, MemorySource):
    return source.images[indices], source.labels[indices]
  examples = [source[int(index)] for index in indices]
  if not examples:
    return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32)
  return (
    np.stack([example['image'] for example in examples]),
    np.array([example['label'] for example in examples], np.int32),
  )
