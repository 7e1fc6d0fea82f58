"""Preprocessing in JavaScript against Pillow and NumPy, bit for bit."""

import base64
import io
import json

import numpy as np
import PIL
from PIL import Image

from hq_jax.data import normalization
from hq_jax.data import preprocessing as preprocessing_lib
from tests.inference.web import node

pytestmark = node.needed

_CROP = {'resize': 40, 'crop': 32}
_RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
_GREY = {'mean': [33.3], 'std': [77.7]}


def _cases():
  """(height, width) of a picture, input shape, preprocessing."""
  rng = np.random.default_rng(4)
  for number in range(30):
    size = tuple(int(n) for n in rng.integers(1, 150, 2))
    yield size, (32, 32, 3), _CROP | _RGB
    shape = tuple(int(n) for n in rng.integers(1, 40, 2))
    yield size, (*shape, 1), _GREY | {'pixel_max': [255, 1, 16][number % 3]}
  for size in ((40, 40), (32, 32), (40, 41), (41, 40), (300, 31), (1, 1)):
    yield size, (32, 32, 3), _CROP | _RGB
    yield size, (32, 32, 1), _GREY
  yield (5, 500), (20, 7, 3), _RGB


def _is_same(size, shape):
  """Whether the resize is that of all releases of Pillow."""
  taller, wider = size[0] - shape[0], size[1] - shape[1]
  is_tall = taller > 0 and taller > 2 * wider
  return not is_tall or int(PIL.__version__.partition('.')[0]) >= 13


def test_pictures_become_the_same_bits():
  rng = np.random.default_rng(5)
  cases, lines = [case for case in _cases() if _is_same(*case[:2])], []
  pictures = []
  for (height, width), shape, preprocessing in cases:
    # Noise between blacks and whites, which must be clipped or not at all.
    rgb = rng.choice([0, 1, 127, 254, 255], (height, width, 3)).astype(np.uint8)
    rgba = np.dstack([rgb, np.full((height, width), 255, np.uint8)])
    picture = io.BytesIO()
    Image.fromarray(rgb).save(picture, 'PNG')
    pictures.append(picture.getvalue())
    lines.append(
      json.dumps(
        {
          'rgba': base64.b64encode(rgba.tobytes()).decode(),
          'width': width,
          'height': height,
          'input': shape,
          'preprocessing': preprocessing,
        }
      )
    )
  found = node.run('prepare.mjs', lines)
  for case, picture, line in zip(cases, pictures, found, strict=True):
    _, shape, preprocessing = case
    pixels = preprocessing_lib.to_pixels(picture, shape, preprocessing)
    expected = normalization.normalize(pixels[None], preprocessing)
    values = np.frombuffer(base64.b64decode(line), np.float32)
    np.testing.assert_array_equal(values, expected.ravel(), str(case))
