"""Folders of small pictures, drawn from a seed, that a network can learn."""

from collections.abc import Sequence
import colorsys
import os
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageDraw

# Coprime numbers of each: every class up to the 20th is another pair.
SHAPES = ('disc', 'square', 'triangle', 'cross', 'ring')
HUES = {'red': 0.0, 'yellow': 0.15, 'green': 0.38, 'blue': 0.6}


def class_name(index: int) -> str:
  """The name of the class that is drawn for an index: 0 is `red_disc`."""
  return f'{list(HUES)[index % len(HUES)]}_{SHAPES[index % len(SHAPES)]}'


def make_folder(
  root: str | os.PathLike[str],
  *,
  num_classes: int = 4,
  num_per_class: int = 10,
  seed: int = 0,
  side: int = 48,
  splits: Sequence[str] = ('train', 'test'),
) -> pathlib.Path:
  """Writes `ROOT/SPLIT/CLASS/000.jpg` and so on; every fifth file is a PNG.

  A picture depends on the seed, its split, class and number alone. Sides are
  `side` to `1.5 * side` pixels. `splits=('',)` puts the classes into ROOT.
  Sorted by name, as labels are, classes are not in the order of `class_name`.
  """
  if not 1 <= num_classes <= len(SHAPES) * len(HUES):
    raise ValueError(f'num_classes: got {num_classes}, wanted 1..20')
  root = pathlib.Path(root)
  for split in splits:
    for index in range(num_classes):
      folder = root / split / class_name(index)
      folder.mkdir(parents=True)
      for number in range(num_per_class):
        rng = np.random.default_rng([seed, index, number, *split.encode()])
        picture = draw(rng, index, side)
        if number % 5 == 4:
          picture.save(folder / f'{number:03d}.png')
        else:
          picture.save(folder / f'{number:03d}.jpg', quality=85)
  return root


def draw(rng: np.random.Generator, index: int, side: int) -> Image.Image:
  """Draws a shape in its class's colour on a blurred, noisy background."""
  width, height = (int(x) for x in rng.integers(side, side * 3 // 2 + 1, 2))
  # Random greys, tinted, enlarged smoothly: light and shade as in a photo.
  blobs = rng.integers(70, 186, (4, 4, 1)) + rng.integers(-30, 31, (4, 4, 3))
  picture = Image.fromarray(blobs.astype(np.uint8)).resize(
    (width, height), Image.Resampling.BICUBIC
  )
  _draw_shape(picture, rng, index)
  noise = rng.normal(0.0, 12.0, (height, width, 3))
  pixels = np.asarray(picture, np.float32) + noise
  return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_shape(
  picture: Image.Image, rng: np.random.Generator, index: int
) -> None:
  """Draws the class's shape at a random place, in a random size and shade."""
  shorter = min(picture.size)
  radius = shorter * rng.uniform(0.25, 0.38)
  x, y = (rng.uniform(radius, length - radius) for length in picture.size)
  hue = list(HUES.values())[index % len(HUES)] + rng.uniform(-0.03, 0.03)
  shade = colorsys.hsv_to_rgb(
    hue % 1.0, rng.uniform(0.7, 1), rng.uniform(0.7, 1)
  )
  colour = tuple(round(255 * value) for value in shade)
  box = (x - radius, y - radius, x + radius, y + radius)
  pen = ImageDraw.Draw(picture)
  match SHAPES[index % len(SHAPES)]:
    case 'disc':
      pen.ellipse(box, fill=colour)
    case 'square':
      pen.rectangle(box, fill=colour)
    case 'triangle':
      pen.regular_polygon((x, y, radius), 3, fill=colour)
    case 'cross':
      arm = radius / 3
      pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
      pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
    case 'ring':
      pen.ellipse(box, outline=colour, width=max(1, round(radius / 3)))
