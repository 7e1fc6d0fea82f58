"""The names of TFDS data sets, and where those lie that it has prepared."""

import os
import pathlib
import re
import shlex

import tensorflow_datasets as tfds

from hq_jax.runtime import home

_NAME = re.compile(r'([a-z0-9_]+)(?:/(\w[\w.-]*))?(?::([0-9.]+))?')


def parse_name(name: str) -> tuple[str, str | None, str | None]:
  """Takes the name of a data set apart."""
  match = _NAME.fullmatch(name)
  version = match[3] if match else None
  if not match or (version and not tfds.core.Version.is_valid(version)):
    raise ValueError(
      f'name is {name!r}, wanted a TFDS name such as cifar10,'
      ' imagenet_resized/16x16 or cifar10:3.0.2'
    )
  return match[1], match[2], version


def prepare_command(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> str:
  """Returns what to type to have a data set prepared."""
  command = f'python -m hq_jax prepare {shlex.quote(name)}'
  if data_dir is None:
    return command
  return f'{command} --data_dir={shlex.quote(os.fspath(data_dir))}'


def get_root(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """Returns the folder that holds the data sets."""
  given = data_dir or os.environ.get('TFDS_DATA_DIR')
  root = home.expand(given or '~/tensorflow_datasets', 'data_dir')
  if root.exists() and not root.is_dir():
    raise ValueError(f'data_dir: {str(root)!r} is a file, not a folder')
  return root


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Finds a prepared data set."""
  dataset, config, version = parse_name(name)
  folder = data_dir / dataset
  config = config or tfds.core.dataset_builder.load_default_config_name(folder)
  folders = (folder / (config or '')).glob('*')
  versions = [
    path
    for path in folders
    if tfds.core.Version.is_valid(path.name) and is_complete(path)
    if version in (None, path.name)
  ]
  key = lambda path: tfds.core.Version(path.name)
  return max(versions, key=key, default=None)


def is_complete(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds what describes a prepared data set."""
  names = ('dataset_info.json', 'features.json')
  return all((folder / name).is_file() for name in names)
