"""Random access to the examples of a split, on disk or in memory."""

from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from hq_jax.data.images import decode


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


def gather(
  source: Source, indices: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Reads examples, in the order asked for, as two arrays."""
  if isinstance(source, MemorySource):
    return source.images[indices], source.labels[indices]
  examples = [source[int(index)] for index in indices]
  return (
    np.stack([example['image'] for example in examples]),
    np.array([example['label'] for example in examples], np.int32),
  )
