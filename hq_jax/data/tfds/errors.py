"""Errors of TFDS in one line, with a remedy."""

import os


def first_line(error: BaseException) -> str:
  """Says in one line what went wrong in TFDS."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]}'


def explain(name: str, what: str, error: BaseException) -> ValueError:
  """Says why TFDS failed; a missing package has a remedy."""
  # TFDS raises an error again with its own words in front.
  while error.__cause__ is not None:
    error = error.__cause__
  if isinstance(error, ModuleNotFoundError):
    if error.name == 'tensorflow':
      return no_tensorflow(name)
    return ValueError(f'{name} needs the Python package {error.name!r}')
  return ValueError(f'{name} {what} ({first_line(error)})')


def no_tensorflow(name: str) -> ValueError:
  """Says that a data set needs TensorFlow to be prepared."""
  return ValueError(
    f'{name} needs TensorFlow to be prepared: pip install "hq_jax[prepare]"'
    ' (training does not need it)'
  )


def damaged(folder: str | os.PathLike[str], why: str) -> ValueError:
  """Says that a prepared set cannot be read."""
  return ValueError(
    f'data_dir: {os.fspath(folder)!r} is damaged or incomplete ({why}): delete'
    ' that folder to have it prepared again'
  )
