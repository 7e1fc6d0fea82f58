import pathlib

import pytest

from hq_jax.data import datasets


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A data_dir that holds the prepared digits; not to be written to."""
  data_dir = tmp_path_factory.mktemp('data')
  datasets.load('digits', data_dir)
  return data_dir


@pytest.fixture(scope='session')
def digits(digits_dir: pathlib.Path) -> datasets.Dataset:
  return datasets.load('digits', digits_dir)
