"""A small network for the digits' images, as a file and as a classifier."""

import pytest

from benchmarks import serving
import hq_jax


@pytest.fixture(scope='session')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('served') / 'digits.hq'
  serving.write_digits(str(path))
  return str(path)


@pytest.fixture(scope='session')
def classifier(file):
  return hq_jax.load(file)
