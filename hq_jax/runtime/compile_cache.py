"""Compiled programs that are kept, for the next start of a run."""

import os
import pathlib
import tempfile
from typing import Any
import warnings

import jax


def keep(folder: str | None) -> str | None:
  """Has JAX keep compiled programs, and look for them, in a folder.

  Where it is None and JAX was given none, by JAX_COMPILATION_CACHE_DIR, it is
  that of the user; where it is empty, nothing is kept. What it returns says
  that nothing can be.
  """
  config: Any = jax.config
  given = config.jax_compilation_cache_dir
  if folder is None and given:
    return None if '://' in given else _look_at(pathlib.Path(given))
  if folder == '':
    jax.config.update('jax_enable_compilation_cache', False)
    return None
  try:
    chosen = folder or str(_get_default())
    if '://' not in chosen:
      _check(pathlib.Path(chosen))
  except (OSError, RuntimeError) as error:
    if folder:
      raise ValueError(
        f'compile_cache is {folder!r}, wanted a folder to write to ({error})'
      ) from error
    return f'what is compiled is not kept: {error}'
  jax.config.update('jax_compilation_cache_dir', chosen)
  # Small programs too, which JAX leaves out: there are many of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  return None


def _look_at(folder: pathlib.Path) -> str | None:
  """Says once that JAX cannot write to its folder, as it would each time."""
  try:
    _check(folder)
  except OSError as error:
    for what in ('reading', 'writing'):
      warnings.filterwarnings('ignore', f'Error {what} persistent compilation')
    return f'what is compiled is not kept: {error}'
  return None


def _get_default() -> pathlib.Path:
  caches = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(caches) / 'hq_jax'


def _check(folder: pathlib.Path) -> None:
  """Makes a folder, and finds out whether something can be written there."""
  folder.mkdir(parents=True, exist_ok=True)
  tempfile.TemporaryFile(dir=folder).close()
