"""Batches to evaluate on, of arrays and of files alike."""

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets
from tests.data import numbered


def _make(dataset, **kwargs):
  return eval_batches.EvalBatches(
    dataset.test, preprocessing=normalization.preprocessing(dataset), **kwargs
  )


@pytest.mark.parametrize('kind', ['arrays', 'files'])
@pytest.mark.parametrize(
  ('batch_size', 'process_count', 'num_batches'),
  [(1, 1, 13), (4, 1, 4), (4, 2, 4), (16, 4, 1)],
)
def test_every_image_is_seen_once_in_order(
  kind, batch_size, process_count, num_batches, request
):
  dataset = request.getfixturevalue(kind)
  shares = []
  for index in range(process_count):
    batches = _make(
      dataset,
      batch_size=batch_size,
      process_index=index,
      process_count=process_count,
    )
    share = list(batches)
    assert len(share) == len(batches) == num_batches
    numbered.assert_equal(share, list(batches))  # As often as one likes.
    shares.append(share)
  found = numbered.join([[x] for x in numbered.join(shares)])[0]
  assert found.keys() == {'image', 'label', 'valid', 'position'}
  np.testing.assert_array_equal(
    found['position'], np.arange(num_batches * batch_size)
  )
  assert found['image'].shape == (
    (num_batches * batch_size, *dataset.image_shape)
  )
  assert found['image'].dtype == np.float32
  assert np.isfinite(found['image']).all()
  assert (found['label'].dtype, found['valid'].dtype) == (np.int32, bool)
  pictures = numbered.identify(found['image'][found['valid']], dataset)
  assert sorted(pictures) == list(range(13))
  labels = found['label'][found['valid']]
  np.testing.assert_array_equal(labels, np.array(pictures) % 3)
  # A folder is in the order of its classes.
  wanted = sorted(pictures, key=lambda i: (i % 3, i))
  assert pictures == (sorted(pictures) if kind == 'arrays' else wanted)


def test_the_centre_is_cropped(tmp_path):
  picture = np.zeros((40, 20, 3), np.uint8)
  picture[10:30] = 200  # What is left of it: the middle half.
  for name in ('train/a/1.png', 'train/b/1.png', 'test/a/1.png'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
  dataset = datasets.load('folder', tmp_path, image_size=10, crop_fraction=1.0)
  (batch,) = _make(dataset, batch_size=1)
  wanted = numbered.normalize(np.full((1, 10, 10, 3), 200, np.uint8), dataset)
  inner = np.s_[:, 1:-1]  # The filter mixes the edges.
  np.testing.assert_allclose(batch['image'][inner], wanted[inner])


def test_unreadable_images_are_named_and_do_not_count(damaged):
  dataset = numbered.load_files(damaged)
  unreadable = threaded_reader.Unreadable(2)
  pictures = []
  for batch in _make(dataset, batch_size=6, unreadable=unreadable):
    assert np.isfinite(batch['image']).all()
    images = batch['image'][batch['valid']]
    pictures += numbered.identify(images, dataset)
  assert sorted(pictures) == list(range(1, 12))
  assert sorted(unreadable.names) == ['test/a/00.jpg', 'test/a/12.jpg']
  with pytest.raises(ValueError, match='cannot be read, wanted at most 0'):
    list(_make(dataset, batch_size=6))
  for path in damaged.rglob('*.jpg'):
    path.unlink()
  unreadable = threaded_reader.Unreadable(13)
  (batch,) = _make(dataset, batch_size=13, unreadable=unreadable)
  assert not batch['valid'].any()


def test_a_size_that_processes_cannot_share_is_refused(arrays):
  with pytest.raises(ValueError, match=r'^batch_size is 9, wanted'):
    _make(arrays, batch_size=9, process_count=2)
