import hashlib
import os
import subprocess
import sys

import numpy as np
from sklearn import datasets as sklearn_datasets

from hq_jax.data.sets import digits as digits_lib

_PREPARE_AND_READ = """
import socket
import sys

def refuse(*args):
  raise AssertionError('a connection was tried')

socket.socket.connect = refuse
socket.getaddrinfo = refuse
from hq_jax.data.sets import datasets
dataset = datasets.load('digits', sys.argv[1])
assert dataset.train[0]['image'].shape == (8, 8, 1)
assert 'tensorflow' not in sys.modules
print(len(dataset.train))
"""


def test_split_is_the_one_of_the_first_release():
  train, test = digits_lib.split_indices()
  indices = np.concatenate([train, test]).astype('<i8')
  assert hashlib.sha256(indices.tobytes()).hexdigest() == (
    '7f71e362ae545c7716e4551e170aec4c10bbf84b76a1c24b73b5646a79df4800'
  )
  assert train[:5].tolist() == [1081, 1707, 927, 713, 262]
  assert (len(train), len(test)) == (1297, 500)
  assert sorted(indices.tolist()) == list(range(1797))


def test_every_class_is_in_both_splits():
  target = sklearn_datasets.load_digits().target
  for indices in digits_lib.split_indices():
    share = np.bincount(target[indices], minlength=10) / len(indices)
    assert share.min() > 0.07 and share.max() < 0.13


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


def test_needs_neither_tensorflow_nor_a_network(tmp_path):
  # A package of that name that can be imported, and would leave a trace.
  package = tmp_path / 'path' / 'tensorflow'
  package.mkdir(parents=True)
  trace = tmp_path / 'imported'
  (package / '__init__.py').write_text(f'open({str(trace)!r}, "w").close()')
  path = os.pathsep.join([str(package.parent), *filter(None, sys.path)])
  done = subprocess.run(
    [sys.executable, '-c', _PREPARE_AND_READ, str(tmp_path / 'data')],
    env={**os.environ, 'PYTHONPATH': path},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.returncode, done.stdout) == (0, '1297\n'), done.stderr
  assert not trace.exists()
