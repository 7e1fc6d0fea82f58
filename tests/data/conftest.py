import pathlib
import shutil

import pytest

from hq_jax.data.sets import datasets
from tests.data import tiny_pictures


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A data_dir that holds the prepared digits; not to be written to."""
  data_dir = tmp_path_factory.mktemp('data')
  datasets.load('digits', data_dir)
  return data_dir


@pytest.fixture(scope='session')
def digits(digits_dir: pathlib.Path) -> datasets.Dataset:
  return datasets.load('digits', digits_dir)


@pytest.fixture(scope='session')
def pictures_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A data_dir that holds the tiny pictures; not to be written to."""
  data_dir = tmp_path_factory.mktemp('pictures')
  for config in tiny_pictures.TinyPictures.builder_configs:
    tiny_pictures.TinyPictures(
      data_dir=data_dir, config=config, file_format='array_record'
    ).download_and_prepare()
  return data_dir


@pytest.fixture
def pictures_copy(
  pictures_dir: pathlib.Path, tmp_path: pathlib.Path
) -> pathlib.Path:
  """The folder of a copy of the pictures, to be broken."""
  folder = tmp_path / 'tiny_pictures' / 'both' / '1.0.0'
  shutil.copytree(pictures_dir / 'tiny_pictures' / 'both' / '1.0.0', folder)
  return folder
