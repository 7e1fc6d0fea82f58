"""Folders of small pictures of random pixels, in files as users have them."""

from collections.abc import Sequence
import os
import pathlib

import numpy as np
from PIL import Image


def make_folder(
  root: pathlib.Path,
  *,
  num_classes: int,
  num_per_class: int,
  splits: Sequence[str] = ('train', 'test'),
) -> pathlib.Path:
  """Writes `ROOT/SPLIT/classI/000.jpg` and so on; every fifth file is a PNG.

  `splits=('',)` puts the classes into ROOT.
  """
  rng = np.random.default_rng(0)
  for split in splits:
    for index in range(num_classes):
      folder = root / split / f'class{index}'
      folder.mkdir(parents=True)
      for number in range(num_per_class):
        shape = (*rng.integers(48, 73, 2), 3)
        pixels = rng.integers(0, 256, shape, np.uint8)
        suffix = 'png' if number % 5 == 4 else 'jpg'
        Image.fromarray(pixels).save(folder / f'{number:03d}.{suffix}')
  return root


def make_damaged_folder(
  root: pathlib.Path, *, num_per_class: int, damaged: slice
) -> pathlib.Path:
  """Writes three classes into ROOT, and cuts off some of the JPEG files."""
  make_folder(root, num_classes=3, num_per_class=num_per_class, splits=('',))
  for path in sorted(root.rglob('*.jpg'))[damaged]:
    os.truncate(path, path.stat().st_size // 2)
  return root
