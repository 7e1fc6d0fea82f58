"""IDX and `.npz` files as data sets: what is read, and what is refused."""

import gzip
import os
import struct

import numpy as np
import pytest

from configs import fashion_mnist
from hq_jax import artifact
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets
from hq_jax.training import train
from tests import setups

_NAMES = {
  'x_train': 'train-images-idx3-ubyte',
  'y_train': 'train-labels-idx1-ubyte',
  'x_test': 't10k-images-idx3-ubyte',
  'y_test': 't10k-labels-idx1-ubyte',
}


def _make(rng, num=40, channels=1):
  y = {'y_train': np.arange(num) % 4, 'y_test': np.arange(num // 2) % 4}
  draw = lambda labels: rng.integers(
    0, 60 * (1 + labels[:, None, None, None]), (len(labels), 6, 5, channels)
  ).astype(np.uint8)
  return {
    'x_train': draw(y['y_train']),
    'x_test': draw(y['y_test']),
  } | {key: labels.astype(np.uint8) for key, labels in y.items()}


def _write_idx(folder, arrays, open_file=gzip.open, suffix='.gz'):
  folder.mkdir(exist_ok=True)
  for key, name in _NAMES.items():
    array = arrays[key]
    if key.startswith('x') and array.shape[-1] == 1:
      array = array[..., 0]
    sizes = struct.pack(f'>{array.ndim}I', *array.shape)
    with open_file(folder / (name + suffix), 'wb') as file:
      file.write(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
  return folder


def _assert_holds(dataset, arrays):
  for split, x, y in (
    (dataset.train, 'x_train', 'y_train'),
    (dataset.test, 'x_test', 'y_test'),
  ):
    np.testing.assert_array_equal(split.images, arrays[x])
    np.testing.assert_array_equal(split.labels, arrays[y])


@pytest.mark.parametrize('channels', [1, 3])
def test_the_same_set_from_idx_npz_and_memory(rng, tmp_path, channels):
  arrays = _make(rng, channels=channels)
  np.savez_compressed(tmp_path / 'set.npz', **arrays)
  names = ('a', 'b', 'c', 'd')
  found = [
    datasets.load(
      'idx', _write_idx(tmp_path / 'gz', arrays), class_names=names
    ),
    datasets.load(
      'idx', _write_idx(tmp_path / 'raw', arrays, open, ''), class_names=names
    ),
    datasets.load('arrays', tmp_path / 'set.npz', class_names=names),
    datasets.from_arrays(
      (arrays['x_train'], arrays['y_train'][:, None]),
      (arrays['x_test'], arrays['y_test'].astype(np.int64)),
      names,
    ),
  ]
  for dataset in found:
    _assert_holds(dataset, arrays)
    assert dataset.class_names == names
    assert dataset.image_shape == (6, 5, channels)
    assert dataset.fingerprint == found[0].fingerprint
  pixels = arrays['x_train'].reshape(-1, channels)
  np.testing.assert_allclose(found[0].pixel_mean, pixels.mean(0), atol=1e-3)
  np.testing.assert_allclose(found[0].pixel_std, pixels.std(0), atol=1e-3)
  arrays['x_test'][0, 0, 0, 0] ^= 1
  changed = datasets.load('idx', _write_idx(tmp_path / 'gz', arrays))
  assert changed.fingerprint != found[0].fingerprint
  assert changed.class_names == ('0', '1', '2', '3')


@pytest.mark.parametrize(
  ('change', 'error'),
  [
    ({'x_train': None}, 'it has no x_train'),
    ({'x_test': np.zeros((20, 6, 5), np.float32)}, 'x_test is of float32'),
    ({'x_train': np.zeros((40, 6, 5, 2), np.uint8)}, r'\[40|\(40, 6, 5, 2\)'),
    ({'x_test': np.zeros((20, 5, 5, 1), np.uint8)}, r'x_test has images of'),
    ({'y_train': np.zeros(39, int)}, 'y_train has 39 labels, wanted one for'),
    ({'y_train': np.zeros(40)}, r'y_train is float64\[40\], wanted integers'),
    ({'y_train': np.full(40, -1)}, 'y_train has the label -1, wanted 0 to'),
    ({'y_train': np.full(40, 10**6)}, 'the label 1000000, wanted 0 to 65535'),
    ({'y_test': np.full(20, 9)}, 'y_test has the label 9, wanted 0 to 3'),
    ({'y_test': np.array([{}] * 20)}, 'allow_pickle=False'),
  ],
)
def test_arrays_that_are_no_set_are_named(rng, tmp_path, change, error):
  arrays = _make(rng) | change
  path = tmp_path / 'set.npz'
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  with pytest.raises(ValueError, match=error) as caught:
    datasets.load('arrays', path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_what_is_no_set_is_not_read_whole(rng, tmp_path):
  pipe = tmp_path / 'pipe.npz'
  os.mkfifo(pipe)
  with pytest.raises(ValueError, match='wanted a regular file'):
    datasets.load('arrays', pipe)
  images = _write_idx(tmp_path / 'idx', _make(rng)) / 'train-images-idx3-ubyte'
  images.with_suffix('.gz').unlink()
  os.mkfifo(images)
  with pytest.raises(ValueError, match='wanted a regular file'):
    datasets.load('idx', tmp_path / 'idx')
  # A terabyte, by its own header.
  array = tmp_path / 'array.npz'
  with array.open('wb') as file:
    header = {'descr': '|u1', 'fortran_order': False, 'shape': (1 << 40,)}
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(file.tell() + (1 << 40))
  with pytest.raises(ValueError, match='it is no archive'):
    datasets.load('arrays', array)


def test_files_that_cannot_be_read_are_named(rng, tmp_path):
  for path, error in (('none.npz', 'is no file'), ('text', 'cannot be read')):
    (tmp_path / 'text').write_text('text')
    with pytest.raises(ValueError, match=f'{path}.*{error}'):
      datasets.load('arrays', tmp_path / path)
  folder = _write_idx(tmp_path / 'idx', _make(rng))
  images = folder / 'train-images-idx3-ubyte.gz'
  whole = gzip.decompress(images.read_bytes())
  for data, error in (
    (gzip.compress(whole[:-1]), 'it has 1199 elements, and its sizes'),
    (gzip.compress(whole + b'0'), 'it has more elements'),
    (gzip.compress(whole)[:-9], 'cannot be read'),
    (b'text', 'Not a gzipped file'),
    (gzip.compress(b'\0\0\x0d\1\0\0\0\1'), 'it begins with 00000d01'),
    # 2^62 images that are not there.
    (gzip.compress(bytes([0, 0, 8, 3]) + b'\x7f\xff\xff\xff' * 3), 'elements'),
  ):
    images.write_bytes(data)
    with pytest.raises(ValueError, match=error) as caught:
      datasets.load('idx', folder)
    assert str(images) in str(caught.value)
  images.unlink()
  with pytest.raises(ValueError, match='has 0 files of train images'):
    datasets.load('idx', folder)
  for name in ('a-train-images-idx3-ubyte', 'b-train-images-idx3-ubyte'):
    (folder / name).touch()
  with pytest.raises(ValueError, match='has 2 files of train images'):
    datasets.load('idx', folder)


@pytest.mark.parametrize(
  ('name', 'fields', 'error'),
  [
    ('idx', {}, 'config.data.data_dir is None, wanted the folder'),
    ('arrays', {}, 'config.data.data_dir is None, wanted the .npz file'),
    ('idx', {'data_dir': '/', 'image_size': 8}, 'not resized'),
    ('arrays', {'data_dir': '/', 'test_split': 'x'}, 'splits of its own'),
    ('digits', {'class_names': ('a',)}, 'names of its own, wanted None'),
  ],
)
def test_fields_that_do_not_fit_are_refused(name, fields, error):
  with pytest.raises(ValueError, match=error):
    datasets.load(name, **fields)


def test_names_are_as_many_as_the_labels(rng, tmp_path):
  folder = _write_idx(tmp_path / 'idx', _make(rng))
  with pytest.raises(ValueError, match='class_names has 3 names, wanted 4'):
    datasets.load('idx', folder, class_names='abc')


def test_own_arrays_are_trained_on_and_noticed_when_they_change(rng, tmp_path):
  arrays = _make(rng, num=100)
  make = lambda: (
    (arrays['x_train'], arrays['y_train']),
    (arrays['x_test'], arrays['y_test']),
  )
  config = setups.get_config(
    tmp_path,
    **setups.PERCEPTRON,
    **{'target_ratio': 2.0, 'batch_size': 24, 'data.max_shift': 1},
    **{'data.class_names': tuple('abcd')},
  )
  train.train(config, tmp_path / 'run', make())
  found = artifact.read(str(tmp_path / 'run' / 'model.hq'))
  assert found.class_names == ('a', 'b', 'c', 'd')
  arrays['y_train'] = arrays['y_train'][::-1]
  with pytest.raises(ValueError, match='images'):
    train.train(config, tmp_path / 'run', make())


@pytest.mark.slow
def test_fashion_mnist_of_debian():
  data = fashion_mnist.get_config().data
  try:
    found = datasets.load('idx', data.data_dir, class_names=data.class_names)
  except ValueError as error:
    assert 'apt-get install dataset-fashion-mnist' in str(error)
    pytest.skip(str(error))
  assert (len(found.train), len(found.test)) == (60_000, 10_000)
  assert np.bincount(found.train.labels).tolist() == [6000] * 10
  assert found.class_names[found.train.labels[0]] == 'Ankle boot'
  # As published.
  assert found.pixel_mean[0] / 255 == pytest.approx(0.2860, abs=1e-4)
  assert found.pixel_std[0] / 255 == pytest.approx(0.3530, abs=1e-4)


def test_a_part_of_half_of_the_images_is_covered():
  images = np.full((400, 8, 8, 3), 200, np.uint8)
  dataset = datasets.from_arrays(
    (images, np.arange(400) % 2), (images, np.arange(400) % 2)
  )._replace(pixel_mean=(10.0, 20.0, 30.0), pixel_std=(1.0, 1.0, 1.0))
  take = lambda **options: next(
    train_batches.make_train_iterator(
      dataset, batch_size=400, seed=3, **options
    )
  )['image']
  assert (take() == [190.0, 180.0, 170.0]).all()
  found = take(max_erased=0.25)
  covered = (found == 0.0).all(-1)
  assert (covered | (found == [190.0, 180.0, 170.0]).all(-1)).all()
  shares = covered.mean((1, 2))
  assert 0.42 < np.mean(shares > 0) < 0.58
  assert shares.max() == pytest.approx(0.25, abs=0.06)
  for image in covered[shares > 0]:
    rows, columns = image.any(1), image.any(0)
    np.testing.assert_array_equal(image, rows[:, None] & columns)
  np.testing.assert_array_equal(found, take(max_erased=0.25))
