import hashlib

import numpy as np
from sklearn import datasets as sklearn_datasets

from hq_jax.data.sets import digits as digits_lib


def test_split_is_the_one_of_the_first_release():
  train, test = digits_lib.split_indices()
  indices = np.concatenate([train, test]).astype('<i8')
  assert hashlib.sha256(indices.tobytes()).hexdigest() == (
    '7f71e362ae545c7716e4551e170aec4c10bbf84b76a1c24b73b5646a79df4800'
  )
  assert train[:5].tolist() == [1081, 1707, 927, 713, 262]
  assert (len(train), len(test)) == (1297, 500)


def test_examples_are_those_of_scikit_learn_in_the_order_of_the_split(digits):
  expected = sklearn_datasets.load_digits()
  for source, indices in zip(
    (digits.train, digits.test), digits_lib.split_indices(), strict=True
  ):
    assert source.images.dtype == np.uint8
    np.testing.assert_array_equal(
      source.images, expected.images[indices][..., None]
    )
    np.testing.assert_array_equal(source.labels, expected.target[indices])
