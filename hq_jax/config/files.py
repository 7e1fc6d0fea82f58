"""Config files: by their path, or by the name of one that comes along."""

import ast
import os
import pathlib


def find(name: str) -> str:
  """The path of a config file, or of that of the library with such a name."""
  if os.path.isfile(path := os.path.expanduser(name)):
    return path
  known = {path.stem: path for path in _get_folder().glob('*.py')}
  if name not in known:
    raise ValueError(
      f'config is {name!r}, but there is no such file, wanted one, or a name:'
      f' {", ".join(sorted(known))}'
    )
  return os.fspath(known[name])


def add_argument(path: str, arguments: str, name: str, value: str) -> str:
  """The arguments of a config file with one more, where it takes such a one.

  So what an argument decides besides its own field is decided for the field on
  the command line, too. What is given as an argument stays as it is.
  """
  given = [pair.partition('=')[0] for pair in arguments.split(',')]
  if name in given or name not in _list_arguments(path):
    return arguments
  # A comma would begin another argument; the field itself has the value.
  pair = f'{name}={value.replace(",", "_")}'
  return ','.join(filter(None, [arguments, pair]))


def _list_arguments(path: str) -> set[str | None]:
  """The arguments that a config file parses, from its text alone."""
  tree = ast.parse(pathlib.Path(path).read_bytes())
  return {
    keyword.arg
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and ast.unparse(node.func).endswith('parse_arguments')
    for keyword in node.keywords
  }


def _get_folder() -> pathlib.Path:
  """In a package that is installed, or beside it in a checkout."""
  package = pathlib.Path(__file__).parents[1]
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'
