import json

import numpy as np
import pytest

from hq_jax.data import normalization


def test_preprocessing_survives_json(digits):
  preprocessing = normalization.preprocessing(digits)
  assert json.loads(json.dumps(preprocessing)) == preprocessing
  assert preprocessing == {
    'pixel_min': 0.0,
    'pixel_max': 16.0,
    'mean': [4.888974556669237],
    'std': [6.012276206082599],
  }


def test_channels_have_their_own_numbers():
  images = np.array([[10, 20, 30]], np.uint8)
  preprocessing = {'mean': [4, 20, 40], 'std': [2, 1, 5]}
  normalized = normalization.normalize(images, preprocessing)
  assert normalized.tolist() == [[3.0, 0.0, -2.0]]


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('mean', None),  # As where it is missing.
    ('mean', [1.0]),
    ('mean', 'abc'),
    ('mean', [1.0, float('nan'), 1.0]),
    ('mean', [1.0, [1.0], 1.0]),
    ('std', [1.0, float('inf'), 1.0]),
    ('std', [1.0, 1e300, 1.0]),
    ('std', [1.0, 0.0, 1.0]),
    ('std', [1.0, -1.0, 1.0]),
  ],
)
def test_bad_numbers_are_named(name, value):
  preprocessing = {'mean': [0.0] * 3, 'std': [1.0] * 3, name: value}
  with pytest.raises(ValueError, match=f'^{name} is .*wanted'):
    normalization.normalize(np.zeros((2, 2, 3)), preprocessing)


@pytest.mark.parametrize(
  ('preprocessing', 'wanted'),
  [
    ({}, None),
    ({'mean': [1.0]}, None),
    ({'resize': 256, 'crop': 224}, (256, 224)),
    ({'resize': 1, 'crop': 1}, (1, 1)),
    ({'resize': 8192, 'crop': 8192}, (8192, 8192)),
  ],
)
def test_crops_are_read(preprocessing, wanted):
  assert normalization.get_crop(preprocessing) == wanted


@pytest.mark.parametrize(
  ('preprocessing', 'message'),
  [
    ({'resize': 256}, 'crop is None, wanted an int of 1..8192'),
    ({'crop': 8}, 'resize is None, wanted an int of 1..8192'),
    ({'resize': 8, 'crop': 9}, 'crop is 9, wanted at most resize, 8'),
    ({'resize': 8.0, 'crop': 8}, 'resize is 8.0, wanted an int'),
    ({'resize': True, 'crop': 1}, 'resize is True, wanted an int'),
    ({'resize': 8193, 'crop': 8}, 'resize is 8193, wanted an int'),
    ({'resize': 8, 'crop': 0}, 'crop is 0, wanted an int of 1..8192'),
  ],
)
def test_crops_that_make_no_sense_are_refused(preprocessing, message):
  with pytest.raises(ValueError) as caught:
    normalization.get_crop(preprocessing)
  assert str(caught.value).startswith(message)
