import itertools
import json
import time

import numpy as np
import pytest

from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets


def _numbered(num: int) -> datasets.Dataset:
  """A data set whose image i is full of i + 1, and whose label i is i."""
  images = np.ones((num, 4, 4, 1), np.uint8)
  images += np.arange(num, dtype=np.uint8)[:, None, None, None]
  source = sources.MemorySource(images, np.arange(num, dtype=np.int32))
  return datasets.Dataset(
    name='numbered',
    class_names=tuple(map(str, range(num))),
    image_shape=(4, 4, 1),
    pixel_range=(0.0, 255.0),
    pixel_mean=(0.0,),
    pixel_std=(1.0,),
    train=source,
    test=source,
  )


def _take(num_batches: int, dataset: datasets.Dataset, **kwargs):
  iterator = train_batches.make_train_iterator(dataset, **kwargs)
  return list(itertools.islice(iterator, num_batches))


def _labels(batches) -> list[int]:
  return np.concatenate([batch['label'] for batch in batches]).tolist()


def _assert_equal(ours, theirs):
  assert len(ours) == len(theirs)
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      assert one[name].dtype == other[name].dtype
      np.testing.assert_array_equal(one[name], other[name])


def _joined(shares):
  return [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*shares, strict=True)
  ]


def test_train_batches_have_the_promised_form(digits):
  batches = _take(3, digits, batch_size=50, seed=0, max_shift=1)
  for batch in batches:
    assert batch.keys() == {'image', 'label'}
    assert batch['image'].shape == (50, 8, 8, 1)
    assert batch['image'].dtype == np.float32
    assert batch['label'].shape == (50,)
    assert batch['label'].dtype == np.int32


def test_image_and_label_belong_together():
  for batch in _take(8, _numbered(20), batch_size=7, seed=1):
    expected = np.broadcast_to(
      batch['label'][:, None, None, None] + 1, (7, 4, 4, 1)
    )
    np.testing.assert_array_equal(batch['image'], expected)


def test_every_epoch_has_every_image_once_in_its_own_order():
  labels = _labels(_take(50, _numbered(20), batch_size=4, seed=0))
  epochs = [tuple(labels[first : first + 20]) for first in range(0, 200, 20)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(20))
  assert len(set(epochs)) == len(epochs)


def test_batches_run_on_over_the_end_of_an_epoch():
  labels = _labels(_take(20, _numbered(20), batch_size=7, seed=0))
  assert sorted(labels[:20]) == sorted(labels[20:40]) == list(range(20))


def test_order_is_the_one_of_the_first_release():
  labels = _labels(_take(2, _numbered(10), batch_size=10, seed=0))
  assert labels[:10] == [5, 8, 9, 7, 4, 2, 1, 0, 3, 6]
  assert labels[10:] == [6, 9, 4, 8, 0, 7, 3, 2, 1, 5]


@pytest.mark.slow
def test_neighbouring_seeds_do_not_share_their_epochs():
  epochs = set()
  for seed in range(10):
    labels = _labels(_take(10, _numbered(20), batch_size=20, seed=seed))
    epochs |= {tuple(labels[first : first + 20]) for first in range(0, 200, 20)}
  assert len(epochs) == 100


def test_the_same_seed_gives_the_same_batches(digits):
  kwargs = {'batch_size': 100, 'seed': 5, 'max_shift': 2}
  _assert_equal(_take(15, digits, **kwargs), _take(15, digits, **kwargs))


@pytest.mark.parametrize('memory_limit_bytes', [0, 2**30])
def test_restored_state_continues_bit_identically(
  digits_dir, memory_limit_bytes
):
  dataset = datasets.load(
    'digits', digits_dir, memory_limit_bytes=memory_limit_bytes
  )
  kwargs = {'batch_size': 100, 'seed': 5, 'max_shift': 1}
  whole = _take(30, dataset, **kwargs)
  first = train_batches.make_train_iterator(dataset, **kwargs)
  for _ in range(17):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  assert state == {'next_index': 17}
  second = train_batches.make_train_iterator(dataset, **kwargs)
  next(second)
  second.set_state(state)
  _assert_equal(list(itertools.islice(second, 13)), whole[17:])


def test_batches_from_disk_equal_those_from_memory(digits, digits_dir):
  on_disk = datasets.load('digits', digits_dir, memory_limit_bytes=0)
  kwargs = {'batch_size': 64, 'seed': 2, 'max_shift': 1}
  _assert_equal(_take(25, on_disk, **kwargs), _take(25, digits, **kwargs))


@pytest.mark.parametrize('process_count', [2, 3])
def test_shares_of_processes_make_up_the_global_batch(process_count):
  dataset = _numbered(20)
  kwargs = {'batch_size': 18, 'seed': 3, 'max_shift': 2}
  shares = [
    _take(
      8,
      dataset,
      process_index=index,
      process_count=process_count,
      **kwargs,
    )
    for index in range(process_count)
  ]
  assert shares[0][0]['label'].shape == (18 // process_count,)
  _assert_equal(_joined(shares), _take(8, dataset, **kwargs))


def test_state_fits_another_number_of_processes():
  dataset = _numbered(20)
  kwargs = {'batch_size': 6, 'seed': 3, 'max_shift': 1}
  alone = train_batches.make_train_iterator(dataset, **kwargs)
  for _ in range(9):
    next(alone)
  second_of_two = train_batches.make_train_iterator(
    dataset, process_index=1, process_count=2, **kwargs
  )
  second_of_two.set_state(alone.get_state())
  batch = next(alone)
  share = {name: values[3:] for name, values in batch.items()}
  _assert_equal([next(second_of_two)], [share])


def test_images_are_shifted_by_at_most_max_shift():
  seen = set()
  for batch in _take(50, _numbered(1), batch_size=8, seed=0, max_shift=1):
    for image in batch['image'][..., 0]:
      rows, columns = image.any(axis=1), image.any(axis=0)
      # A row of zeros at the top was shifted in from there, and so on.
      dy = int(not rows[0]) - int(not rows[3])
      dx = int(not columns[0]) - int(not columns[3])
      assert image.sum() == (4 - abs(dy)) * (4 - abs(dx))
      seen.add((dy, dx))
  assert seen == set(itertools.product((-1, 0, 1), repeat=2))


def test_shifts_come_before_the_normalization(digits):
  # What is shifted in is background, which normalization moves below 0.
  background = np.float32(-4.888974556669237) / np.float32(6.012276206082599)
  for batch in _take(5, digits, batch_size=100, seed=0, max_shift=3):
    assert np.isclose(batch['image'].min(), background)
    assert not (batch['image'] == 0).any()


def test_delivers_20_000_digits_per_second_of_one_core(digits):
  batches = train_batches.make_train_iterator(
    digits, batch_size=100, seed=0, max_shift=1
  )
  next(batches)
  rates = []
  for _ in range(5):
    start = time.process_time()
    for _ in range(40):
      next(batches)
    rates.append(4000 / (time.process_time() - start))
  assert max(rates) > 20_000


@pytest.mark.parametrize('batch_size', [1, 64, 100, 500, 512])
def test_evaluation_sees_every_image_once_in_order(digits, batch_size):
  preprocessing = normalization.preprocessing(digits)
  batches = eval_batches.make_eval_batches(
    digits.test, preprocessing=preprocessing, batch_size=batch_size
  )
  assert len(batches) == -(-500 // batch_size)
  seen = list(batches)
  assert len(seen) == len(batches)
  for batch in seen:
    assert batch['image'].shape == (batch_size, 8, 8, 1)
    assert batch['image'].dtype == np.float32
    assert np.isfinite(batch['image']).all()
    assert batch['label'].dtype == np.int32
    assert batch['valid'].dtype == bool
  valid = np.concatenate([batch['valid'] for batch in seen])
  labels = np.concatenate([batch['label'] for batch in seen])
  images = np.concatenate([batch['image'] for batch in seen])
  np.testing.assert_array_equal(labels[valid], digits.test.labels)
  np.testing.assert_array_equal(
    images[valid], normalization.normalize(digits.test.images, preprocessing)
  )


def test_evaluation_can_be_repeated(digits):
  batches = eval_batches.make_eval_batches(
    digits.test,
    preprocessing=normalization.preprocessing(digits),
    batch_size=128,
  )
  _assert_equal(list(batches), list(batches))


@pytest.mark.parametrize(('num', 'process_count'), [(20, 2), (17, 4), (25, 4)])
def test_evaluation_shared_among_processes(num, process_count):
  dataset = _numbered(num)
  kwargs = {
    'preprocessing': normalization.preprocessing(dataset),
    'batch_size': 16,
  }
  shares = [
    list(
      eval_batches.make_eval_batches(
        dataset.test,
        process_index=index,
        process_count=process_count,
        **kwargs,
      )
    )
    for index in range(process_count)
  ]
  assert {len(share) for share in shares} == {2}
  alone = list(eval_batches.make_eval_batches(dataset.test, **kwargs))
  _assert_equal(_joined(shares), alone)
  valid = np.concatenate([batch['valid'] for batch in alone])
  labels = np.concatenate([batch['label'] for batch in alone])
  assert labels[valid].tolist() == list(range(num))


@pytest.mark.parametrize(
  ('name', 'kwargs'),
  [
    ('batch_size', {'batch_size': 0}),
    ('batch_size', {'batch_size': 9, 'process_count': 2}),
    ('batch_size', {'batch_size': 8.0}),
    ('process_count', {'process_count': 0}),
    ('process_index', {'process_index': 2, 'process_count': 2}),
    ('process_index', {'process_index': -1}),
  ],
)
def test_bad_sizes_are_named(name, kwargs):
  dataset = _numbered(4)
  kwargs = {'batch_size': 8, **kwargs}
  with pytest.raises(ValueError, match=f'^{name} is .* wanted'):
    train_batches.make_train_iterator(dataset, seed=0, **kwargs)
  with pytest.raises(ValueError, match=f'^{name} is .* wanted'):
    eval_batches.make_eval_batches(dataset.test, preprocessing={}, **kwargs)


@pytest.mark.parametrize(
  ('name', 'value'),
  [('seed', -1), ('seed', 2**64), ('max_shift', -1), ('max_shift', 4)],
)
def test_bad_seed_and_shift_are_named(name, value):
  kwargs = {'batch_size': 2, 'seed': 0, name: value}
  with pytest.raises(ValueError, match=f'^{name} is {value}, wanted'):
    train_batches.make_train_iterator(_numbered(4), **kwargs)


def test_the_largest_seed_works():
  assert _take(1, _numbered(4), batch_size=2, seed=2**64 - 1, max_shift=3)
