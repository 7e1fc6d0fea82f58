"""Files that cost a decoder as much as photographs do, drawn from a seed."""

from collections.abc import Sequence
import io
import pathlib

import numpy as np
from PIL import Image


def make_photo(
  rng: np.random.Generator, height: int, width: int, quality: int = 93
) -> bytes:
  """Draws what costs a decoder as much as a photograph does.

  Random fields from coarse to fine, each weaker than the one before as in
  natural images, most of it shared by the colours, and the grain of a sensor.
  Chroma is stored at half resolution.

  Args:
    rng: the source of chance.
    height: in pixels.
    width: in pixels.
    quality: of JPEG.

  Returns:
    A JPEG file, of about 0.6 bytes a pixel at quality 93.
  """
  pixels = np.full((height, width, 3), 128, np.float32)
  cells = 4
  while cells < max(height, width):
    field = rng.standard_normal((cells, cells, 3), np.float32)
    field = 0.9 * field[..., :1] + 0.3 * field
    for c in range(3):
      plane = Image.fromarray(np.ascontiguousarray(field[..., c]))
      plane = plane.resize((width, height), Image.Resampling.BICUBIC)
      pixels[..., c] += 45 * (4 / cells) ** 0.5 * np.asarray(plane)
    cells *= 2
  pixels += 14 * rng.standard_normal((height, width, 1), np.float32)
  file = io.BytesIO()
  Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
    file, 'JPEG', quality=quality, subsampling='4:2:0'
  )
  return file.getvalue()


def draw_sizes(rng: np.random.Generator, num: int) -> list[tuple[int, int]]:
  """Draws heights and widths like ImageNet's.

  Args:
    rng: the source of chance.
    num: how many.

  Returns:
    Half of them 375 x 500, a quarter 500 x 375, and sides of 256..640 pixels.
  """
  sizes = [(375, 500), (375, 500), (500, 375)]
  return [
    sizes[i % 4] if i % 4 < 3 else tuple(rng.integers(256, 641, 2).tolist())
    for i in range(num)
  ]


def write_folder(
  root: pathlib.Path,
  rng: np.random.Generator,
  sizes: Sequence[tuple[int, int]],
  num_names: int = 1,
) -> None:
  """Writes a folder of images, as `hq_jax.data.sets.folders` reads it.

  Args:
    root: an empty folder.
    rng: the source of chance.
    sizes: heights and widths of the training images, of two classes by turns.
    num_names: that each file has, as links: what a shuffle costs depends on how
      many examples there are.
  """
  for i, (height, width) in enumerate(sizes):
    folder = root / 'train' / 'ab'[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f'{i}_0.jpg'
    file.write_bytes(make_photo(rng, height, width))
    for name in range(1, num_names):
      (folder / f'{i}_{name}.jpg').hardlink_to(file)
  # Without an image to test on, some of these would be held out.
  file = root / 'test' / 'a' / '0.jpg'
  file.parent.mkdir(parents=True)
  file.write_bytes(make_photo(rng, 32, 32))
