"""Config files: by their path, or by the name of one that comes along."""

import os
import pathlib


def find(name: str) -> str:
  """The path of a config file, or of that of the library with such a name."""
  if os.path.isfile(name):
    return name
  known = {path.stem: path for path in _get_folder().glob('*.py')}
  if name not in known:
    raise ValueError(
      f'config is {name!r}, but there is no such file, wanted one, or a name:'
      f' {", ".join(sorted(known))}'
    )
  return os.fspath(known[name])


def _get_folder() -> pathlib.Path:
  """In a package that is installed, or beside it in a checkout."""
  package = pathlib.Path(__file__).parents[1]
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'
