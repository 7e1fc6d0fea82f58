import numpy as np
from PIL import Image
import pytest

from hq_jax.data.images import exif as exif_lib
from tests.data import encoded


@pytest.mark.parametrize('order', ['>', '<'])
@pytest.mark.parametrize('orientation', range(10))
def test_what_counts_is_1_to_8(orientation, order):
  exif = encoded.make_exif(orientation, order)
  wanted = orientation if 1 <= orientation <= 8 else 1
  assert exif_lib.read_orientation(exif) == wanted
  # WebP files leave the first word out.
  bare = exif.removeprefix(b'Exif\0\0')
  assert exif_lib.read_orientation(bare) == wanted


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_box_is_found_where_the_image_is_stored(orientation):
  stored = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
  upright = exif_lib.turn_upright(stored, orientation)
  assert upright.size == exif_lib.turn_size(stored.size, orientation)
  box = 1, 0, 3, 2
  found = stored.crop(exif_lib.find_stored_box(box, stored.size, orientation))
  found = exif_lib.turn_upright(found, orientation)
  assert np.array_equal(np.asarray(found), np.asarray(upright.crop(box)))
