"""Data sets whose images can be told from one another: image i is one grey."""

import itertools

import numpy as np
from PIL import Image

from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets

SIZE, RESIZE = 8, 10
NUM_TRAIN, NUM_TEST = 23, 13


def make_arrays(num_train=NUM_TRAIN, num_test=NUM_TEST):
  """A set in memory; label i is that of class i % 3."""

  def make(num):
    greys = 10 * np.arange(num, dtype=np.uint8)[:, None, None, None]
    labels = np.arange(num, dtype=np.int32) % 3
    return sources.MemorySource(greys.repeat(SIZE, 1).repeat(SIZE, 2), labels)

  return datasets.Dataset(
    name='numbered',
    class_names=('a', 'b', 'c'),
    image_shape=(SIZE, SIZE, 1),
    pixel_range=(0.0, 255.0),
    pixel_mean=(20.0,),
    pixel_std=(4.0,),
    train=make(num_train),
    test=make(num_test),
  )


def write_files(root):
  """Writes the same as JPEG files of several sizes."""
  for split, num in (('train', NUM_TRAIN), ('test', NUM_TEST)):
    for i in range(num):
      path = root / split / 'abc'[i % 3] / f'{i:02d}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      size = (14 + i % 3, 12 + i % 5)
      Image.new('RGB', size, (10 * i,) * 3).save(path, quality=100)
  return root


def load_files(root):
  return datasets.load('folder', root, image_size=SIZE, crop_fraction=0.8)


def identify(images, dataset):
  """Which picture each image was."""
  raw = images * np.float32(dataset.pixel_std) + np.float32(dataset.pixel_mean)
  assert np.ptp(raw, axis=(1, 2, 3)).max(initial=0) < 3
  return np.round(raw.mean((1, 2, 3)) / 10).astype(int).tolist()


def take(num_batches, dataset, **kwargs):
  iterator = train_batches.make_train_iterator(dataset, **kwargs)
  return list(itertools.islice(iterator, num_batches))


def normalize(images, dataset):
  return normalization.normalize(images, normalization.preprocessing(dataset))


def join(shares):
  """The global batches of what each process got."""
  return [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*shares, strict=True)
  ]


def assert_equal(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      assert one[name].dtype == other[name].dtype
      np.testing.assert_array_equal(one[name], other[name])
