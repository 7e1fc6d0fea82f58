"""Reads of files that may be damaged, and the messages of Orbax."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import logging as std_logging
import re
import sys
from typing import TypeVar
import warnings

from absl import logging
import jax

from hq_jax.runtime import distributed

_T = TypeVar('_T')
# About the machine or the user, not about what is in the files.
_NOT_DAMAGE = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ESTALE)


class DamagedError(ValueError):
  """A step does not hold what was saved."""


def silence_orbax() -> Callable[[], None]:
  """Drops the log messages of Orbax's threads; returns a function to undo it.

  They are pages, and late; `Checkpoints` raises an error that says the same.
  """
  loggers = logging.get_absl_logger(), std_logging.getLogger('asyncio')
  is_ours = lambda record: not re.search('/(orbax|asyncio)/', record.pathname)
  # What a full disk left undone is found at the very end, after `undo`.
  warnings.filterwarnings(
    'ignore', r"coroutine '.*write_fragment' was never awaited", RuntimeWarning
  )
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  for logger in loggers:
    logger.addFilter(is_ours)

  def undo():
    sys.unraisablehook = hook
    for logger in loggers:
      logger.removeFilter(is_ours)

  return undo


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
  """Within it, Orbax is silent; see `silence_orbax`."""
  undo = silence_orbax()
  try:
    yield
  finally:
    undo()


def attempt(read: Callable[[], _T]) -> tuple[_T | None, str]:
  """Reads in all processes; the result, or the first reason of a failure."""
  found, reason = attempt_here(read)
  reason = next(filter(None, distributed.gather(reason)), '')
  return (None, reason) if reason else (found, '')


def attempt_here(read: Callable[[], _T]) -> tuple[_T | None, str]:
  """Reads in this process; the result, or the reason of a failure."""
  found, reason = None, ''
  with quiet_orbax():
    try:
      found = read()
    except _NOT_DAMAGE:
      raise
    except Exception as error:  # Orbax raises all kinds for damaged files.
      if getattr(error, 'errno', None) in _PASSING:
        raise
      reason = to_line(error)
    if reason:
      # Reads that Orbax gave up complain when they are collected: here.
      gc.collect()
  return found, reason


def to_line(error: Exception) -> str:
  """The error as the end of a sentence about the step."""
  if isinstance(error, DamagedError):
    return str(error)
  text = ' '.join(str(error).split())
  return f'cannot be read ({type(error).__name__}: {text[:160]})'
