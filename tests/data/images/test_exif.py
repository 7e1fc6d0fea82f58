import numpy as np
from PIL import Image
import pytest

from hq_jax.data.images import exif


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_box_is_found_where_the_image_is_stored(orientation):
  stored = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
  upright = exif.turn_upright(stored, orientation)
  assert upright.size == exif.turn_size(stored.size, orientation)
  box = 1, 0, 3, 2
  found = stored.crop(exif.find_stored_box(box, stored.size, orientation))
  found = exif.turn_upright(found, orientation)
  assert np.array_equal(np.asarray(found), np.asarray(upright.crop(box)))
