"""Batches to train on, of arrays and of files alike."""

import itertools
import json
import time

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import sources
from hq_jax.data import train_batches
from hq_jax.data.images import crops
from hq_jax.data.images import threaded_reader
from tests.data import numbered


@pytest.mark.parametrize('kind', ['arrays', 'files'])
def test_every_epoch_has_every_image_once_in_its_own_order(kind, request):
  dataset = request.getfixturevalue(kind)
  # Batches run on over the end of an epoch: 23 batches of 6 are six epochs.
  batches = numbered.take(23, dataset, batch_size=6, seed=3)
  for batch in batches:
    assert batch.keys() == {'image', 'label'}
    assert batch['image'].shape == (6, *dataset.image_shape)
    assert batch['image'].dtype == np.float32
    assert batch['label'].dtype == np.int32
  found = numbered.join([[batch] for batch in batches])[0]
  pictures = numbered.identify(found['image'], dataset)
  np.testing.assert_array_equal(found['label'], np.array(pictures) % 3)
  epochs = [tuple(pictures[i : i + 23]) for i in range(0, len(pictures), 23)]
  assert len(set(epochs)) == 6
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))


def test_order_is_the_one_of_the_first_release():
  dataset = numbered.make_arrays(10)
  first, second = (
    numbered.identify(batch['image'], dataset)
    for batch in numbered.take(2, dataset, batch_size=10, seed=0)
  )
  assert first == [5, 8, 9, 7, 4, 2, 1, 0, 3, 6]
  assert second == [6, 9, 4, 8, 0, 7, 3, 2, 1, 5]


@pytest.mark.slow
def test_neighbouring_seeds_do_not_share_their_epochs(arrays):
  epochs = {
    tuple(numbered.identify(batch['image'], arrays))
    for seed in range(10)
    for batch in numbered.take(10, arrays, batch_size=23, seed=seed)
  }
  assert len(epochs) == 100


@pytest.mark.parametrize('kind', ['digits', 'digits_on_disk', 'files'])
def test_restored_state_continues_bit_identically(kind, request):
  dataset = request.getfixturevalue(kind)
  kwargs = {
    'batch_size': 9,
    'seed': 5,
    'max_shift': 0 if kind == 'files' else 1,
  }
  whole = numbered.take(9, dataset, **kwargs)
  first = train_batches.make_train_iterator(dataset, **kwargs)
  for _ in range(4):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  assert state == {'next_index': 4}
  second = train_batches.make_train_iterator(dataset, **kwargs)
  next(second)
  second.set_state(state)
  numbered.assert_equal(list(itertools.islice(second, 5)), whole[4:])


def test_batches_from_disk_equal_those_from_memory(digits, digits_on_disk):
  kwargs = {'batch_size': 64, 'seed': 2, 'max_shift': 1}
  numbered.assert_equal(
    numbered.take(25, digits_on_disk, **kwargs),
    numbered.take(25, digits, **kwargs),
  )


@pytest.mark.parametrize(
  ('kind', 'process_count'), [('arrays', 2), ('arrays', 3), ('files', 3)]
)
def test_shares_of_processes_make_up_the_global_batch(
  kind, process_count, request
):
  dataset = request.getfixturevalue(kind)
  kwargs = {'batch_size': 18, 'seed': 3, 'flip': True}
  if kind == 'arrays':
    kwargs['max_shift'] = 2
  shares = [
    numbered.take(
      6, dataset, process_index=i, process_count=process_count, **kwargs
    )
    for i in range(process_count)
  ]
  whole = numbered.take(6, dataset, num_threads=1, **kwargs)
  numbered.assert_equal(numbered.join(shares), whole)


def test_state_fits_another_number_of_processes(arrays):
  kwargs = {'batch_size': 6, 'seed': 3, 'max_shift': 1}
  alone = train_batches.make_train_iterator(arrays, **kwargs)
  for _ in range(9):
    next(alone)
  second_of_two = train_batches.make_train_iterator(
    arrays, process_index=1, process_count=2, **kwargs
  )
  second_of_two.set_state(alone.get_state())
  share = {name: values[3:] for name, values in next(alone).items()}
  numbered.assert_equal([next(second_of_two)], [share])


def test_images_are_shifted_by_at_most_max_shift_and_then_normalized(arrays):
  images = np.full_like(arrays.train.images, 255)
  train = sources.MemorySource(images, arrays.train.labels)
  white = arrays._replace(train=train)
  seen = set()
  for batch in numbered.take(20, white, batch_size=8, seed=0, max_shift=1):
    for image in batch['image'][..., 0]:
      # What is shifted in is background: 0, which becomes (0 - 20) / 4.
      inside = image != -5
      rows, columns = inside.any(axis=1), inside.any(axis=0)
      dy = int(not rows[0]) - int(not rows[-1])
      dx = int(not columns[0]) - int(not columns[-1])
      assert inside.sum() == (8 - abs(dy)) * (8 - abs(dx))
      seen.add((dy, dx))
  assert seen == set(itertools.product((-1, 0, 1), repeat=2))


def test_a_crop_is_that_of_its_position(tmp_path):
  # A gradient, so that every crop is another image.
  ramp = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30, 1) // 5
  for i in range(4):
    path = tmp_path / 'train' / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(ramp.astype(np.uint8), 3, axis=2)).save(path)
  dataset = numbered.load_files(tmp_path)
  settings = {'flip': True, 'min_area': 0.3}
  batches = numbered.take(4, dataset, batch_size=2, seed=3, **settings)
  found = np.concatenate([batch['image'] for batch in batches])
  for position, image in enumerate(found):
    wanted = crops.random_resized_crop(
      path.read_bytes(),
      crops.random_words(3, position),
      size=numbered.SIZE,
      **settings,
    )
    np.testing.assert_array_equal(image, numbered.normalize(wanted, dataset))
  assert len({image.tobytes() for image in found}) == len(found)


def test_another_image_stands_in_for_an_unreadable_one(damaged):
  dataset = numbered.load_files(damaged)
  unreadable = threaded_reader.Unreadable(3)
  batches = numbered.take(
    23, dataset, batch_size=6, seed=3, unreadable=unreadable
  )
  images = np.concatenate([batch['image'] for batch in batches])
  pictures = numbered.identify(images, dataset)
  good = sorted(set(range(23)) - {4, 5, 20})
  for first in range(0, len(pictures), 23):
    # All that can be read, and the next ones in the folder once more.
    rest = pictures[first : first + 23]
    for picture in good:
      rest.remove(picture)
    assert len(rest) == 3 and set(rest) <= set(good)
  assert set(unreadable.names) == {
    *('train/b/04.jpg', 'train/c/05.jpg', 'train/c/20.jpg')
  }


@pytest.mark.parametrize('limit', [None, 2])
def test_too_many_unreadable_ones_are_an_error(damaged, limit):
  kwargs = {'batch_size': 6, 'seed': 3}
  if limit is not None:
    kwargs['unreadable'] = threaded_reader.Unreadable(limit)
  with pytest.raises(ValueError, match='cannot be read, wanted at most'):
    numbered.take(23, numbered.load_files(damaged), **kwargs)


def test_a_set_of_which_nothing_can_be_read(damaged):
  dataset = numbered.load_files(damaged)
  for path in damaged.rglob('*.jpg'):
    path.unlink()
  unreadable = threaded_reader.Unreadable(100)
  with pytest.raises(ValueError, match='not one of the training images can be'):
    numbered.take(1, dataset, batch_size=1, seed=3, unreadable=unreadable)
  assert len(unreadable.names) == 23


def test_delivers_20_000_digits_per_second_of_one_core(digits):
  batches = train_batches.make_train_iterator(
    digits, batch_size=100, seed=0, max_shift=1
  )
  next(batches)
  rates = []
  for _ in range(4):
    start = time.process_time()
    for _ in range(20):
      next(batches)
    rates.append(2000 / (time.process_time() - start))
  assert max(rates) > 20_000


@pytest.mark.parametrize(
  ('name', 'kwargs'),
  [
    ('batch_size', {'batch_size': 0}),
    ('batch_size', {'batch_size': 9, 'process_count': 2}),
    ('batch_size', {'batch_size': 8.0}),
    ('process_count', {'process_count': 0}),
    ('process_index', {'process_index': 2, 'process_count': 2}),
    ('process_index', {'process_index': -1}),
    ('seed', {'seed': -1}),
    ('seed', {'seed': 2**64}),
    ('max_shift', {'max_shift': -1}),
    ('max_shift', {'max_shift': 8}),
  ],
)
def test_arguments_out_of_range_are_named(arrays, name, kwargs):
  kwargs = {'batch_size': 8, 'seed': 0, **kwargs}
  with pytest.raises(ValueError, match=f'^{name} is .*, wanted'):
    train_batches.make_train_iterator(arrays, **kwargs)


def test_the_largest_seed_works(arrays):
  assert numbered.take(1, arrays, batch_size=2, seed=2**64 - 1, max_shift=7)
