import numpy as np

from hq_jax.data import sources


def test_memory_source_is_random_access():
  images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
  source = sources.MemorySource(images, np.array([7, 8, 9], np.int32))
  assert len(source) == 3
  assert source[1]['image'].ravel().tolist() == [4, 5, 6, 7]
  assert source[1]['label'] == 8
  assert [example['label'] for example in [source[2], source[0]]] == [9, 7]
