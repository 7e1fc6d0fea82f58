import os
import pathlib
import shutil

import pytest

from hq_jax.data.sets import datasets
from tests.data import numbered
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
def digits_on_disk(digits_dir: pathlib.Path) -> datasets.Dataset:
  return datasets.load('digits', digits_dir, memory_limit_bytes=0)


@pytest.fixture(scope='session')
def arrays() -> datasets.Dataset:
  return numbered.make_arrays()


@pytest.fixture(scope='session')
def files(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
  root = numbered.write_files(tmp_path_factory.mktemp('numbered'))
  return numbered.load_files(root)


@pytest.fixture
def damaged(files: datasets.Dataset, tmp_path: pathlib.Path) -> pathlib.Path:
  """The folder of `files` with three training and two test images broken."""
  root = shutil.copytree(files.train.root, tmp_path / 'damaged')
  for name in ('train/b/04', 'test/a/00'):
    (root / f'{name}.jpg').write_bytes(b'')
  for name in ('train/c/05', 'test/a/12'):
    path = root / f'{name}.jpg'
    os.truncate(path, path.stat().st_size // 2)
  (root / 'train/c/20.jpg').write_bytes(b'not an image')
  return root


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
