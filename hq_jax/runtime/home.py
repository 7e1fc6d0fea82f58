"""Paths that begin with the folder of a user."""

import os
import pathlib


def expand(path: str | os.PathLike[str], field: str) -> pathlib.Path:
  """A path without `~`; refuses one of a user who has no folder."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:  # As in a container, of an unknown user.
    raise ValueError(
      f'{field} is {os.fspath(path)!r}, but there is no home folder here,'
      ' wanted another path, or HOME'
    ) from error
