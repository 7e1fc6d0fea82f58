"""Sets of images of one size that lie in files as arrays: IDX and `.npz`."""

from collections.abc import Sequence
import contextlib
import gzip
import hashlib
import math
import os
import pathlib
import re
from typing import Any, cast, IO, NamedTuple
import zipfile
import zlib

import numpy as np

from hq_jax.core import files
from hq_jax.data import sources
from hq_jax.runtime import home

KEYS = ('x_train', 'y_train', 'x_test', 'y_test')

_UBYTE = 0x08  # an IDX file's type
_MAX_CLASSES = 1 << 16
_ZIP = b'PK'
_MAX_PACKING = 1032  # bytes that one byte of a gzip file can stand for
# Where Debian's packages put such files.
_PACKAGES = {'/usr/share/datasets/fashion-mnist': 'dataset-fashion-mnist'}
# As MNIST's are called, with a prefix as EMNIST's, or unpacked by hand.
_IDX_NAME = re.compile(
  r'(?:.*-)?(?P<split>train|t10k|test)-(?P<what>images|labels)'
  r'[-.]idx[134]-ubyte(?:\.gz)?'
)


class Arrays(NamedTuple):
  """A set that is held in memory.

  Attributes:
    class_names: in the order of the labels.
    train: the training examples.
    test: the examples that accuracy is measured on.
  """

  class_names: tuple[str, ...]
  train: sources.MemorySource
  test: sources.MemorySource

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """`(h, w, c)` of every image."""
    return cast(Any, self.train.images.shape[1:])

  def fingerprint(self) -> str:
    """A digest of all images and labels."""
    digest = hashlib.sha256(repr(self.image_shape).encode())
    for split in (self.train, self.test):
      digest.update(np.ascontiguousarray(split.images).data)
      digest.update(split.labels.astype('<i4').tobytes())
    return digest.hexdigest()


def make(
  train: tuple[Any, Any],
  test: tuple[Any, Any],
  class_names: Sequence[str] | None = None,
  names: Sequence[str] = KEYS,
) -> Arrays:
  """A set of images and labels, for training and for test.

  Raises:
    ValueError: where an array, which the error calls by its name, is not one of
      images or labels, or they do not fit each other.
  """
  x_train, y_train, x_test, y_test = names
  splits = [
    sources.MemorySource(
      _check_images(x_train, train[0]), _check_labels(y_train, train[1])
    ),
    sources.MemorySource(
      _check_images(x_test, test[0]), _check_labels(y_test, test[1])
    ),
  ]
  for split, x, y in zip(splits, names[::2], names[1::2], strict=True):
    if len(split.images) != len(split.labels):
      raise ValueError(
        f'{y} has {len(split.labels)} labels, wanted one for each of the'
        f' {len(split.images)} images of {x}'
      )
  found = splits[1].images.shape[1:]
  if found != splits[0].images.shape[1:]:
    raise ValueError(
      f'{x_test} has images of shape {found}, wanted'
      f' {splits[0].images.shape[1:]}, those of {x_train}'
    )
  num_classes = 1 + int(splits[0].labels.max())
  if class_names is not None:
    if len(class_names) < num_classes:
      raise ValueError(
        f'class_names has {len(class_names)} names, wanted {num_classes}: the'
        f' labels of {y_train} are 0 to {num_classes - 1}'
      )
    num_classes = len(class_names)
  largest = int(splits[1].labels.max())
  if largest >= num_classes:
    raise ValueError(
      f'{y_test} has the label {largest}, wanted 0 to {num_classes - 1}'
    )
  return Arrays(
    tuple(class_names or map(str, range(num_classes))), splits[0], splits[1]
  )


def _check_images(name: str, images: Any) -> np.ndarray:
  images = np.asarray(images)
  if images.dtype != np.uint8:
    raise ValueError(f'{name} is of {images.dtype}, wanted uint8')
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
    raise ValueError(
      f'{name} has shape {images.shape}, wanted [n, height, width] or'
      ' [n, height, width, channels] with 1 or 3 channels, and none of them 0'
    )
  return images


def _check_labels(name: str, labels: Any) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]  # As Keras has them.
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f'{name} is {labels.dtype}{list(labels.shape)}, wanted integers [n]'
    )
  if labels.size:
    for label in (int(labels.min()), int(labels.max())):
      if not 0 <= label < _MAX_CLASSES:
        raise ValueError(
          f'{name} has the label {label}, wanted 0 to {_MAX_CLASSES - 1}'
        )
  return labels.astype(np.int32)


def open_npz(
  path: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> Arrays:
  """Reads a `.npz` file of `x_train`, `y_train`, `x_test` and `y_test`."""
  path = home.expand(path, 'config.data.data_dir')
  try:
    with contextlib.ExitStack() as stack:
      stream = stack.enter_context(files.open_regular(path))
      # An array that is no archive would be read whole first.
      if stream.read(len(_ZIP)) != _ZIP:
        raise ValueError('it is no archive')
      stream.seek(0)
      file = stack.enter_context(np.load(stream, allow_pickle=False))
      missing = [key for key in KEYS if key not in file]
      if missing:
        raise ValueError(f'it has no {", ".join(missing)}')
      arrays = [file[key] for key in KEYS]
  except FileNotFoundError:
    raise ValueError(f'data_dir: {str(path)!r} is no file') from None
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
    raise ValueError(
      f'data_dir: {str(path)!r} cannot be read ({e}), wanted a .npz file with'
      f' {", ".join(KEYS)}'
    ) from e
  try:
    return make((arrays[0], arrays[1]), (arrays[2], arrays[3]), class_names)
  except ValueError as error:
    raise ValueError(f'data_dir: {str(path)!r}: {error}') from error


def open_idx(
  folder: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> Arrays:
  """Reads a folder of four IDX files, as MNIST's, packed or not."""
  folder = home.expand(folder, 'config.data.data_dir')
  if not folder.is_dir():
    package = _PACKAGES.get(str(folder))
    how = f': apt-get install {package}' if package else ''
    raise ValueError(f'data_dir: {str(folder)!r} is no folder{how}')
  found: dict[tuple[str, str], list[pathlib.Path]] = {}
  for path in sorted(folder.iterdir()):
    if match := _IDX_NAME.fullmatch(path.name):
      split = 'train' if match['split'] == 'train' else 'test'
      found.setdefault((split, match['what']), []).append(path)
  paths = []
  for split, stem in (('train', 'train'), ('test', 't10k')):
    for what, num_axes in (('images', 3), ('labels', 1)):
      there = found.get((split, what), [])
      # One file may lie there packed and unpacked.
      if len({path.name.removesuffix('.gz') for path in there}) != 1:
        names = ', '.join(path.name for path in there) or 'none'
        raise ValueError(
          f'data_dir: {str(folder)!r} has {len(there)} files of {split} {what}'
          f' ({names}), wanted one, such as'
          f' {stem}-{what}-idx{num_axes}-ubyte.gz'
        )
      paths.append(there[0])
  arrays = [_read_idx(path) for path in paths]
  try:
    return make(
      (arrays[0], arrays[1]),
      (arrays[2], arrays[3]),
      class_names,
      [path.name for path in paths],
    )
  except ValueError as error:
    raise ValueError(f'data_dir: {str(folder)!r}: {error}') from error


def _read_idx(path: pathlib.Path) -> np.ndarray:
  """Reads an IDX file of unsigned bytes: magic, sizes, and the elements."""
  try:
    with contextlib.ExitStack() as stack:
      file: Any = stack.enter_context(files.open_regular(path))
      if path.suffix == '.gz':
        file = stack.enter_context(gzip.open(file))
      return _parse_idx(file, _MAX_PACKING * path.stat().st_size)
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise ValueError(
      f'data_dir: {str(path)!r} cannot be read ({error}), wanted an IDX file of'
      ' unsigned bytes'
    ) from error


def _parse_idx(file: IO[bytes], most: int) -> np.ndarray:
  magic = file.read(4)
  if len(magic) < 4 or magic[:3] != bytes([0, 0, _UBYTE]):
    raise ValueError(f'it begins with {magic.hex() or "nothing"}')
  sizes = file.read(4 * magic[3])
  if len(sizes) < 4 * magic[3]:
    raise ValueError('its sizes are cut off')
  shape = np.frombuffer(sizes, '>u4').astype(int).tolist()
  wanted = math.prod(shape)
  # What no such file can hold is not asked for.
  data = file.read(min(wanted, most) + 1)
  if len(data) != wanted:
    has = 'more' if len(data) > wanted else f'{len(data)}'
    raise ValueError(f'it has {has} elements, and its sizes {shape}')
  return np.frombuffer(data, np.uint8).reshape(shape)
