"""The real builder of ImageNet, on archives of tiny images."""

import collections

import pytest

from hq_jax.data.tfds import builders
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests.data import fake_imagenet

pytest.importorskip('tensorflow')
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def imagenet_dir(tmp_path_factory):
  """A data_dir that holds the prepared tiny ImageNet; not to be written to."""
  tmp_path = tmp_path_factory.mktemp('imagenet')
  return fake_imagenet.prepare(tmp_path, num_test=20)


def _labels(source):
  """The label of every image, once its colour says the same."""
  labels = []
  for i in range(len(source)):
    example = source[i]
    assert fake_imagenet.label_of(example['image']) == example['label']
    assert example['name'] == f'{source.split}[{i}]'
    labels.append(example['label'])
  return labels


def test_every_image_is_there_once_with_its_label(imagenet_dir):
  found = prepared.open_prepared(lookup.find('imagenet2012', imagenet_dir))
  assert found.class_names == tuple(fake_imagenet.synsets())
  assert found.image_shape == (None, None, 3)
  assert (found.train.split, found.test.split) == ('train', 'validation')
  train = collections.Counter(_labels(found.train))
  assert train == dict.fromkeys(range(1000), 2)
  test = collections.Counter(_labels(found.test))
  assert test == collections.Counter(fake_imagenet.validation_labels(1000))


def test_no_file_is_there_twice(imagenet_dir):
  # By the names that TFDS keeps: images of one class may be equal.
  folder = lookup.find('imagenet2012:5.1.0', imagenet_dir)
  builder = builders.open_builder(folder)
  for split, wanted in (('train', 2000), ('validation', 1000), ('test', 20)):
    source = builder.as_data_source(split)
    names = {example['file_name'] for example in source}
    assert len(names) == len(source) == wanted


def test_the_test_split_of_imagenet_has_no_labels(imagenet_dir):
  folder = lookup.find('imagenet2012', imagenet_dir)
  with pytest.raises(ValueError, match=r"test_split: .*'test' .* no labels"):
    prepared.open_prepared(folder, test_split='test')


def test_a_second_time_it_is_there_already(imagenet_dir):
  # Neither the archives nor a network are needed any more.
  done = fake_imagenet.run_prepare('imagenet2012', f'--data_dir={imagenet_dir}')
  assert done.returncode == 0
  assert 'imagenet2012 is prepared already in' in done.stdout
  assert 'train 2,000, validation 1,000, test 20' in done.stdout
