"""Images of a letter each, under random maps, light and dirt.

What is made of the random draws are sums, products and quotients, element by
element, which IEEE 754 fixes to the last bit, and neither sines nor matrix
products, which differ between libraries: the images are the same bytes
everywhere.
"""

import numpy as np

from benchmarks.glyphs import letters
from benchmarks.glyphs import scenes

MIN_SIZE_PX = 8
MAX_SIZE_PX = 64

# A pixel is the mean over so many points along either axis.
_SUBSAMPLES = 4

# What `scenes.draw_scenes` returns, with axes for rows and columns behind.
Scene = dict[str, np.ndarray]


def render(
  seed: int, split: str, first: int, num: int, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws images first..first + num - 1 of a split.

  Image i does not depend on `first` and `num`; at another `size_px` it is
  the same scene, with other noise. Some dozens at a time are fastest.

  Args:
    seed: 0 <= seed < 2**64.
    split: 'train' or 'test'.
    first: the first image, >= 0.
    num: how many, >= 1.
    size_px: height and width, in pixels, 8..64.

  Returns:
    The images, uint8 `[num, size_px, size_px, 1]`, and their labels, int64
    `[num]`, indices into `letters.CLASS_NAMES`.

  Raises:
    ValueError: for an argument outside its range.

  >>> images, labels = render(0, 'train', first=100, num=3, size_px=16)
  >>> images.shape, images.dtype
  ((3, 16, 16, 1), dtype('uint8'))
  >>> (render(0, 'train', 102, 1, 16)[0] == images[2]).all()
  np.True_
  """
  scenes.check_integer('size_px', size_px, MIN_SIZE_PX, MAX_SIZE_PX)
  labels = scenes.draw_labels(seed, split, first, num)
  # Every value gets two axes more, those of the image's rows and columns.
  scene = {
    name: values[..., None, None]
    for name, values in scenes.draw_scenes(seed, split, first, num).items()
  }
  images = _paint(scene, _cover(scene, labels, size_px))
  images = _occlude(scene, images)
  noise = scenes.draw_noise(seed, split, first, num, size_px)
  images += scene['contrast'] * scene['noise'] * noise
  images = np.rint(np.clip(images, 0, 255)).astype(np.uint8)
  return images[..., None], labels


def _rotation(half_tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns cosine and sine of an angle, given the tangent of half of it."""
  square = half_tangent * half_tangent
  return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def _cover(scene: Scene, labels: np.ndarray, size_px: int) -> np.ndarray:
  """Returns the share of each pixel that the letter covers, `[n, h, w]`.

  A point g of a letter, in cap heights h from its centre, is seen at the point
  `p = shift + h R(angle) [[1, shear], [0, 1]] [[stretch, 0], [0, 1]] g`. The
  inverse of that map takes the points of each pixel to the letter's bitmap.
  """
  num_points = size_px * _SUBSAMPLES
  cos, sin = _rotation(scene['half_angle'])
  shear, stretch = scene['shear'], scene['stretch']
  scale = letters.CAP_HEIGHT / scene['cap_height']
  inverse = [
    scale * (cos + shear * sin) / stretch,
    scale * (sin - shear * cos) / stretch,
    scale * -sin,
    scale * cos,
  ]
  # In integers from here on: the maps in 1/2**16 bitmap pixels per step from
  # point to point, and positions in half steps, which makes 2**17.
  xx, xy, yx, yy = (
    np.rint(entry * (2**16 / num_points)).astype(np.int64) for entry in inverse
  )
  points = 2 * np.arange(num_points) + 1 - num_points
  shift = np.rint(2 * num_points * scene['shift']).astype(np.int64)
  x, y = points - shift[:, 0], points[:, None] - shift[:, 1]
  # The outermost pixels of a bitmap are empty: so is what lies beyond them.
  last = letters.SIDE - 1
  columns = np.clip(((xx * x + xy * y) >> 17) + letters.SIDE // 2, 0, last)
  rows = np.clip(((yx * x + yy * y) >> 17) + letters.SIDE // 2, 0, last)
  font = scene['font'].astype(np.int64)
  letter = font * len(letters.CLASS_NAMES) + labels[:, None, None]
  indices = (letter * letters.SIDE + rows) * letters.SIDE + columns
  inside = (
    letters.load_bitmaps()
    .ravel()[indices]
    .reshape(-1, size_px, _SUBSAMPLES, size_px, _SUBSAMPLES)
  )
  return inside.sum(axis=(2, 4), dtype=np.int64) / _SUBSAMPLES**2


def _paint(scene: Scene, coverage: np.ndarray) -> np.ndarray:
  """Puts the letter in front of a texture, and light on both."""
  x, y = _centres(coverage.shape[-1])
  contrast = scene['contrast']
  darker = (255 - contrast) * scene['brightness']
  is_bright = scene['polarity'] >= 0.5
  back = darker + contrast * ~is_bright
  front = darker + contrast * is_bright
  nodes = scene['texture_nodes'].squeeze((-2, -1))
  back = back + contrast * scene['texture'] * _interpolate(nodes, x.size)
  images = back + coverage * (front - back)
  gradient = scene['gradient']
  return images + gradient[:, 0] * x + gradient[:, 1] * y


def _occlude(scene: Scene, images: np.ndarray) -> np.ndarray:
  """Lays bars and patches over the images, with soft edges of a pixel."""
  size_px = images.shape[-1]
  x, y = _centres(size_px)

  def cover(inner_distance):
    return np.clip(size_px * inner_distance + 0.5, 0, 1)

  for bar in range(scenes.DRAWS['bar_level'].shape[0]):
    cos, sin = _rotation(scene['bar_half_angle'][:, bar])
    distance = np.abs(cos * x + sin * y - scene['bar_offset'][:, bar])
    share = cover(scene['bar_half_width'][:, bar] - distance)
    share = share * (scene['bar_presence'][:, bar] < scenes.PRESENCE)
    images = images + share * (scene['bar_level'][:, bar] - images)
  for patch in range(scenes.DRAWS['patch_level'].shape[0]):
    centre = scene['patch_centre'][:, patch]
    half_side = scene['patch_half_side'][:, patch]
    share = cover(half_side[:, 0] - np.abs(x - centre[:, 0]))
    share = share * cover(half_side[:, 1] - np.abs(y - centre[:, 1]))
    share = share * (scene['patch_presence'][:, patch] < scenes.PRESENCE)
    images = images + share * (scene['patch_level'][:, patch] - images)
  return images


def _centres(size_px: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns x `[w]` and y `[h, 1]` of pixel centres, from -0.5 to 0.5."""
  x = (2 * np.arange(size_px) + 1 - size_px) / (2 * size_px)
  return x, x[:, None]


def _interpolate(nodes: np.ndarray, size_px: int) -> np.ndarray:
  """Makes images `[n, h, w]` of the values at grid nodes, `[n, k, k]`."""
  positions = (
    (2 * np.arange(size_px) + 1) * (nodes.shape[1] - 1) / (2 * size_px)
  )
  low = positions.astype(np.int64)
  share = positions - low
  rows = nodes[:, low] + (nodes[:, low + 1] - nodes[:, low]) * share[:, None]
  return rows[..., low] + (rows[..., low + 1] - rows[..., low]) * share
