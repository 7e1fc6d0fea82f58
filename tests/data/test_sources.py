import numpy as np
import pytest

from hq_jax.data import sources


def _memory_source():
  images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
  return sources.MemorySource(images, np.array([7, 8, 9], np.int32))


def test_memory_source_is_random_access():
  source = _memory_source()
  assert len(source) == 3
  assert source[1]['image'].ravel().tolist() == [4, 5, 6, 7]
  assert source[1]['label'] == 8
  assert [example['label'] for example in [source[2], source[0]]] == [9, 7]


@pytest.mark.parametrize('indices', [[2, 0, 2], np.array([2, 0, 2])])
def test_gather_keeps_order_and_repeats(indices):
  images, labels = sources.gather(_memory_source(), indices)
  assert images.dtype == np.uint8 and labels.dtype == np.int32
  assert labels.tolist() == [9, 7, 9]
  assert images[:, 0, 0, 0].tolist() == [8, 0, 8]
