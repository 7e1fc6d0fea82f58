"""Test images that are read again to be looked at."""

import numpy as np

from hq_jax.data import normalization
from hq_jax.data import pictures
from tests.data import numbered


def _read(dataset, positions):
  preprocessing = normalization.preprocessing(dataset)
  return pictures.read(dataset.test, positions, preprocessing)


def test_images_are_as_the_model_sees_them(arrays, digits, files):
  assert _read(arrays, []) == {}
  for dataset, scale in ((arrays, 1.0), (digits, 255 / 16)):
    found = _read(dataset, [12, 3])
    assert list(found) == [12, 3]
    for position, image in found.items():
      wanted = scale * dataset.test[position]['image']
      np.testing.assert_allclose(image, wanted, atol=0.51)
  for position, image in _read(files, [4, 0, 12]).items():
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    number = int(files.test[position]['name'][-6:-4])
    assert np.abs(image - 10.0 * number).max() < 3


def test_those_that_cannot_be_read_any_more_are_left_out(damaged):
  dataset = numbered.load_files(damaged)
  names = [dataset.test[i]['name'] for i in range(13)]
  found = _read(dataset, list(range(13)))
  broken = {i for i, name in enumerate(names) if name[-6:-4] in ('00', '12')}
  assert set(found) == set(range(13)) - broken and len(broken) == 2
