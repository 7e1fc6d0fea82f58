"""What the builder of a data set is checked for."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from hq_jax.data.sets import digits
from hq_jax.data.tfds import builders
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests.data import tiny_pictures

_FILE = tfds.features.Image()
_LABEL = tfds.features.ClassLabel(names=['cat', 'dog', 'emu'])
_ARRAY = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)


@pytest.mark.parametrize(
  ('features', 'supervised'),
  [
    ({'x': _FILE, 'y': _LABEL}, None),
    ({'x': _ARRAY, 'y': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL, 'a': _FILE, 'b': _LABEL}, ('x', 'y')),
    (
      {'x': _FILE, 'y': _LABEL, 'name': tfds.features.Text()},
      ('x', 'y', 'name'),
    ),
    ({'x': _ARRAY, 'y': _LABEL, 'a': tfds.features.Scalar(np.uint8)}, None),
    (
      {'x': _ARRAY, 'y': _LABEL}
      | {'a': tfds.features.Tensor(shape=(8, 8), dtype=np.float32)},
      None,
    ),
  ],
)
def test_image_and_label_are_found(features, supervised, tmp_path):
  assert builders.find_keys(_info(features, supervised, tmp_path)) == ('x', 'y')


@pytest.mark.parametrize(
  ('features', 'supervised'),
  [
    ({'x': _FILE}, None),
    ({'x': _FILE, 'y': tfds.features.ClassLabel()}, None),
    ({'y': _LABEL}, None),
    ({'x': _FILE, 'a': _ARRAY, 'y': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL, 'b': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL}, ('y', 'a')),
    ({'x': _FILE, 'y': tfds.features.Sequence(_LABEL)}, ('x', 'y')),
    ({'x': _FILE, 'y': _LABEL}, ({'x': 'x'}, 'y')),
    ({'x': tfds.features.Image(dtype=np.uint16), 'y': _LABEL}, ('x', 'y')),
    (
      {'x': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.int32), 'y': _LABEL},
      None,
    ),
    ({'x': _FILE, 'y': tfds.features.Scalar(np.int64)}, ('x', 'y')),
  ],
)
def test_other_features_are_named(features, supervised, tmp_path):
  with pytest.raises(ValueError, match=r'^digits has the features') as caught:
    builders.find_keys(_info(features, supervised, tmp_path))
  message = str(caught.value)
  assert '\n' not in message
  for key, feature in features.items():
    assert f'{key} ({type(feature).__name__})' in message
  assert ('supervised' in message) == (supervised is not None)


def _info(features, supervised, tmp_path):
  return tfds.core.DatasetInfo(
    builder=digits.Digits(data_dir=tmp_path),
    features=tfds.features.FeaturesDict(features),
    supervised_keys=supervised,
  )


def _set_format(folder, **entries):
  file = folder / 'dataset_info.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_another_file_format_is_named_with_what_to_do(pictures_copy, tmp_path):
  _set_format(pictures_copy, fileFormat='tfrecord')
  with pytest.raises(ValueError, match='format tfrecord, wanted') as caught:
    prepared.open_prepared(pictures_copy)
  command = lookup.prepare_command('tiny_pictures/both', tmp_path)
  assert f'delete that folder and run `{command}`' in str(caught.value)
  assert str(pictures_copy) in str(caught.value)


def test_the_format_may_be_one_of_several(pictures_copy):
  _set_format(
    pictures_copy,
    fileFormat='tfrecord',
    alternativeFileFormats=['array_record'],
  )
  tiny_pictures.check(prepared.open_prepared(pictures_copy).train, range(10))
