"""The names of TFDS data sets, and where those lie that it has prepared."""

import os
import pathlib
import re
import shlex

import tensorflow_datasets as tfds

_NAME = re.compile(r'([a-z0-9_]+)(?:/(\w[\w.-]*))?(?::([0-9.]+))?')


def parse_name(name: str) -> tuple[str, str | None, str | None]:
  """Takes the name of a data set apart.

  Args:
    name: 'name' or 'name/config', either of them with ':version'.

  Returns:
    The three of them.

  Raises:
    ValueError: it is not of that form.

  >>> parse_name('imagenet_resized/16x16:0.1.0')
  ('imagenet_resized', '16x16', '0.1.0')
  """
  match = _NAME.fullmatch(name)
  version = match[3] if match else None
  if not match or (version and not tfds.core.Version.is_valid(version)):
    raise ValueError(
      f'name: got {name!r}, wanted a TFDS name such as cifar10,'
      ' imagenet_resized/16x16 or cifar10:3.0.2'
    )
  return match[1], match[2], version


def prepare_command(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> str:
  """Returns what to type to have a data set prepared.

  Args:
    name: of the data set.
    data_dir: the folder that holds the data sets; None leaves it out.

  Returns:
    A command for a shell.

  >>> prepare_command('cifar10', '/my data')
  "python -m hq_jax.data.prepare cifar10 --data_dir='/my data'"
  """
  command = f'python -m hq_jax.data.prepare {shlex.quote(name)}'
  if data_dir is None:
    return command
  return f'{command} --data_dir={shlex.quote(os.fspath(data_dir))}'


def get_root(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """Returns the folder that holds the data sets.

  >>> get_root('/data').as_posix()
  '/data'

  Args:
    data_dir: the folder; None means the environment's TFDS_DATA_DIR, or
      `~/tensorflow_datasets` without one.

  Returns:
    Its path, which need not exist.

  Raises:
    ValueError: where it is a file.
  """
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  if root.exists() and not root.is_dir():
    raise ValueError(f'data_dir: {str(root)!r} is a file, not a folder')
  return root


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Finds a prepared data set.

  Args:
    name: 'name' or 'name/config', either of them with ':version'. A name
      without a config means the default one, for a set that has configs.
    data_dir: the folder that holds the data sets.

  Returns:
    The folder of the version that was asked for, or of the newest. None where
    there is none that is complete: TFDS writes to a folder `incomplete.*`,
    which it renames at the end.

  Raises:
    ValueError: for a name that is none.

  >>> import tempfile
  >>> from hq_jax.data.sets import datasets
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   _ = datasets.load('digits', data_dir)
  ...   find('digits', pathlib.Path(data_dir)).relative_to(data_dir).as_posix()
  'digits/1.0.0'
  """
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
  """Returns whether a folder holds what describes a prepared data set.

  Args:
    folder: of a version of a data set.

  Returns:
    Whether it has TFDS's two files about the set.

  >>> is_complete(pathlib.Path('/nowhere'))
  False
  """
  names = ('dataset_info.json', 'features.json')
  return all((folder / name).is_file() for name in names)
