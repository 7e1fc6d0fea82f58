"""Batches of a folder of images: decoded, cropped, each exactly once."""

import itertools
import json

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data import train_batches
from hq_jax.data.images import crops
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets

_SIZE, _RESIZE = 8, 10
_NUM_TRAIN, _NUM_TEST = 23, 13


def _write(path, index, num):
  """A picture that is one grey, by which it can be told from all others."""
  path.parent.mkdir(parents=True, exist_ok=True)
  side = (14 + index % 3, 12 + index % 5)
  Image.new('RGB', side, (index * 10,) * 3).save(path, quality=100)
  assert num * 10 <= 256


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('pictures')
  for split, num in (('train', _NUM_TRAIN), ('test', _NUM_TEST)):
    for i in range(num):
      _write(root / split / 'abc'[i % 3] / f'{i:02d}.jpg', i, num)
  return root


@pytest.fixture(scope='module')
def dataset(folder):
  return _load(folder)


def _load(folder):
  return datasets.load('folder', folder, image_size=_SIZE, crop_fraction=0.8)


def _identify(images):
  """Which picture each image was."""
  if not len(images):
    return []
  raw = images * 255 * np.array([0.229, 0.224, 0.225], np.float32)
  raw += 255 * np.array([0.485, 0.456, 0.406], np.float32)
  means = raw.mean((1, 2, 3))
  assert raw.max() - raw.min() < 256 and np.ptp(raw, axis=(1, 2, 3)).max() < 3
  return np.round(means / 10).astype(int).tolist()


def _batched(pictures):
  """Epoch by epoch."""
  for first in range(0, len(pictures), _NUM_TRAIN):
    yield pictures[first : first + _NUM_TRAIN]


def _take(num_batches, dataset, **kwargs):
  iterator = train_batches.make_train_iterator(dataset, seed=3, **kwargs)
  return list(itertools.islice(iterator, num_batches))


def _eval_batches(dataset, **kwargs):
  return eval_batches.make_eval_batches(
    dataset.test,
    preprocessing=normalization.preprocessing(dataset),
    **kwargs,
  )


def _assert_equal(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    for name in one.keys() | other.keys():
      np.testing.assert_array_equal(one[name], other[name])


def test_the_data_set_says_what_it_is(dataset):
  assert dataset.class_names == ('a', 'b', 'c')
  assert dataset.image_shape == (_SIZE, _SIZE, 3)
  assert (len(dataset.train), len(dataset.test)) == (_NUM_TRAIN, _NUM_TEST)
  found = normalization.preprocessing(dataset)
  assert (found['resize'], found['crop']) == (_RESIZE, _SIZE)
  np.testing.assert_allclose(found['mean'], [123.675, 116.28, 103.53])


def test_every_image_once_per_epoch_with_its_label(dataset):
  batches = _take(_NUM_TRAIN, dataset, batch_size=6)  # Six epochs.
  for batch in batches:
    assert batch['image'].shape == (6, _SIZE, _SIZE, 3)
    assert batch['image'].dtype == np.float32
    assert batch['label'].dtype == np.int32
  pictures = _identify(np.concatenate([batch['image'] for batch in batches]))
  labels = np.concatenate([batch['label'] for batch in batches])
  np.testing.assert_array_equal(labels, np.array(pictures) % 3)
  for epoch in _batched(pictures):
    assert sorted(epoch) == list(range(_NUM_TRAIN))


def test_batches_do_not_depend_on_threads_or_processes(dataset):
  whole = _take(9, dataset, batch_size=6, flip=True, num_threads=1)
  _assert_equal(whole, _take(9, dataset, batch_size=6, flip=True))
  shares = [
    _take(9, dataset, batch_size=6, flip=True, process_index=i, process_count=3)
    for i in range(3)
  ]
  joined = [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*shares, strict=True)
  ]
  _assert_equal(whole, joined)


def test_restored_state_continues_bit_identically(dataset):
  whole = _take(9, dataset, batch_size=5)
  iterator = train_batches.make_train_iterator(dataset, batch_size=5, seed=3)
  for _ in range(4):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  assert state == {'next_index': 4}
  again = train_batches.make_train_iterator(dataset, batch_size=5, seed=3)
  again.set_state(state)
  _assert_equal(whole[4:], list(itertools.islice(again, 5)))


def test_a_crop_is_that_of_its_position(tmp_path):
  # A gradient, so that every crop is another image.
  ramp = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30, 1) // 5
  picture = np.repeat(ramp.astype(np.uint8), 3, axis=2)
  for i in range(4):
    path = tmp_path / 'train' / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
  data = path.read_bytes()
  dataset = _load(tmp_path)
  settings = {'flip': True, 'min_area': 0.3}
  batches = _take(4, dataset, batch_size=2, **settings)
  found = np.concatenate([batch['image'] for batch in batches])
  for position, image in enumerate(found):
    words = crops.random_words(3, position)
    wanted = crops.random_resized_crop(data, words, size=_SIZE, **settings)
    wanted = normalization.normalize(
      wanted, normalization.preprocessing(dataset)
    )
    np.testing.assert_array_equal(image, wanted)
  assert len({image.tobytes() for image in found}) == len(found)


@pytest.mark.parametrize('process_count', [1, 2])
def test_every_test_image_is_evaluated_once(dataset, process_count):
  pictures = []
  for index in range(process_count):
    batches = _eval_batches(
      dataset, batch_size=4, process_index=index, process_count=process_count
    )
    found = list(batches)
    assert len(found) == len(batches) == 4
    _assert_equal(found, list(batches))  # As often as one likes.
    for batch in found:
      assert batch['image'].shape == (4 // process_count, _SIZE, _SIZE, 3)
      these = _identify(batch['image'][batch['valid']])
      labels = batch['label'][batch['valid']]
      np.testing.assert_array_equal(labels, np.array(these) % 3)
      pictures += these
  assert sorted(pictures) == list(range(_NUM_TEST))


def test_evaluation_crops_the_centre(tmp_path):
  picture = np.zeros((40, 20, 3), np.uint8)
  picture[10:30] = 200  # What is left of it: the middle half.
  for name in ('a/1.png', 'b/2.png'):
    for split in ('train', 'test'):
      path = tmp_path / split / name
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(picture).save(path)
  dataset = datasets.load('folder', tmp_path, image_size=10, crop_fraction=1.0)
  (batch,) = _eval_batches(dataset, batch_size=2)
  wanted = normalization.normalize(
    np.full((2, 10, 10, 3), 200, np.uint8),
    normalization.preprocessing(dataset),
  )
  inner = np.s_[:, 1:-1]  # The filter mixes the edges.
  np.testing.assert_allclose(batch['image'][inner], wanted[inner])


@pytest.fixture
def damaged(folder, tmp_path):
  """The same folder with three training and two test images broken."""
  for split, broken in (('train', (4, 5, 20)), ('test', (0, 12))):
    for path in sorted((folder / split).rglob('*.jpg')):
      target = tmp_path / path.relative_to(folder)
      target.parent.mkdir(parents=True, exist_ok=True)
      data = path.read_bytes()
      if int(path.stem) in broken:
        data = (b'', data[: len(data) // 2], b'not an image')[
          int(path.stem) % 3
        ]
      target.write_bytes(data)
  return tmp_path


def test_unreadable_images_are_named_and_replaced(damaged):
  dataset = _load(damaged)
  unreadable = threaded_reader.Unreadable(5)
  batches = _take(_NUM_TRAIN, dataset, batch_size=6, unreadable=unreadable)
  pictures = _identify(np.concatenate([batch['image'] for batch in batches]))
  good = sorted(set(range(_NUM_TRAIN)) - {4, 5, 20})
  for epoch in _batched(pictures):
    # All that can be read, and the next ones in the folder once more.
    rest = list(epoch)
    for picture in good:
      rest.remove(picture)
    assert len(rest) == 3 and set(rest) <= set(good)
  assert set(unreadable.names) == {'b/04.jpg', 'c/05.jpg', 'c/20.jpg'} or set(
    unreadable.names
  ) == {'train/b/04.jpg', 'train/c/05.jpg', 'train/c/20.jpg'}
  test = []
  for batch in _eval_batches(dataset, batch_size=6, unreadable=unreadable):
    assert np.isfinite(batch['image']).all()
    test += _identify(batch['image'][batch['valid']])
  assert sorted(test) == list(range(1, 12))
  assert len(unreadable.names) == 5


@pytest.mark.parametrize('limit', [0, 2, None])
def test_too_many_are_an_error(damaged, limit):
  dataset = _load(damaged)
  given = (
    {} if limit is None else {'unreadable': threaded_reader.Unreadable(limit)}
  )
  with pytest.raises(ValueError, match='cannot be read, wanted at most'):
    _take(_NUM_TRAIN, dataset, batch_size=6, **given)
  if limit != 2:
    with pytest.raises(ValueError, match='cannot be read, wanted at most'):
      list(_eval_batches(dataset, batch_size=6, **given))


def test_a_vanished_image_is_unreadable(folder, damaged):
  dataset = _load(damaged)
  for path in damaged.rglob('*.jpg'):
    path.unlink()
  unreadable = threaded_reader.Unreadable(100)
  with pytest.raises(ValueError, match='not one of the training images can be'):
    _take(1, dataset, batch_size=1, unreadable=unreadable)
  assert len(unreadable.names) == _NUM_TRAIN
  (batch,) = _eval_batches(dataset, batch_size=13, unreadable=unreadable)
  assert not batch['valid'].any()


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'image_size': None}, 'image_size is None, but folder has images of any'),
    ({'image_size': 8, 'train_split': 'train'}, 'folder has splits of its own'),
  ],
)
def test_what_does_not_fit_a_folder_is_refused(folder, kwargs, message):
  with pytest.raises(ValueError, match=message):
    datasets.load('folder', folder, **kwargs)


def test_arrays_are_not_resized(digits_dir):
  with pytest.raises(ValueError) as caught:
    datasets.load('digits', digits_dir, image_size=32)
  assert str(caught.value) == (
    'config.data.image_size is 32, but digits has arrays, which are not'
    ' resized, wanted None'
  )


def test_a_folder_needs_a_place():
  with pytest.raises(ValueError, match=r'config\.data\.data_dir is None'):
    datasets.load('folder', image_size=8)
