"""The folder of one run: whose it is, and the history of its metrics."""

from collections.abc import Iterator, Mapping
import fcntl
import json
import math
import os
from typing import Any, IO

from hq_jax import files

CONFIG = 'config.json'
METRICS = 'metrics.jsonl'
MODEL = 'model.hq'
CHECKPOINTS = 'checkpoints'

# Fields that do not decide the result: a run may go on with others.
_FREE_FIELDS = (
  'checkpoint_every_epochs',
  'data.data_dir',
  'data.max_unreadable',
  'data.num_threads',
  'pretrained',  # `inputs.pretrained` tells what is in it.
)

# What has no field of its own.
_INPUTS = {
  'inputs.images': (
    'images were added to config.data.data_dir, taken away or renamed since'
    ' that run began'
  ),
  'inputs.pretrained': (
    'config.pretrained holds other weights than that run began with'
  ),
}


def claim(workdir: str, config: Mapping[str, Any]) -> IO[str]:
  """Makes the folder this config's own, or refuses to touch it.

  Args:
    workdir: the folder; made where there is none.
    config: nested dictionaries that JSON can hold.

  Returns:
    An open file that holds the folder's lock until it is closed.

  Raises:
    ValueError: where the folder belongs to another config, holds files of a
      run without one, is in use, or is no folder.
  """
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ValueError(f'workdir is {workdir}, which is a file')
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path):
    _check_unused(workdir)
    os.makedirs(workdir, exist_ok=True)
  # Locked before it is read or written: of two processes that begin at once,
  # one gets the folder.
  lock = open(path, 'a+', encoding='utf-8', errors='replace')  # noqa: SIM115
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.seek(0)
    text = lock.read()
    if text:
      _check_same(workdir, text, config)
    else:
      _check_unused(workdir)
      lock.write(json.dumps(config, indent=2, sort_keys=True) + '\n')
      lock.flush()
      os.fsync(lock.fileno())
  except BlockingIOError:
    lock.close()
    raise ValueError(
      f'workdir is {workdir}, in which another process is running'
    ) from None
  except ValueError:
    lock.close()
    raise
  return lock


def _check_unused(workdir: str) -> None:
  for name in (CHECKPOINTS, METRICS, MODEL):
    if os.path.exists(os.path.join(workdir, name)):
      raise ValueError(
        f'workdir is {workdir}, which holds {name} but no {CONFIG}: wanted a'
        ' new folder or that of an earlier run'
      )


def _check_same(workdir: str, text: str, config: Mapping[str, Any]) -> None:
  try:
    theirs = dict(_flatten(json.loads(text)))
  except (ValueError, AttributeError):
    raise ValueError(
      f'workdir is {workdir}, whose {CONFIG} is damaged'
    ) from None
  ours = dict(_flatten(config))
  for name, what in _INPUTS.items():
    if theirs.get(name) != ours.get(name):
      raise ValueError(f'workdir is {workdir}, but {what}')
  for name in sorted(theirs.keys() | ours.keys()):
    if name not in _FREE_FIELDS and theirs.get(name) != ours.get(name):
      raise ValueError(
        f'workdir is {workdir}, which belongs to another config: config.{name}'
        f' is {theirs.get(name)!r} there and {ours.get(name)!r} here'
      )


def _flatten(
  tree: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


class History:
  """The rows of `metrics.jsonl`, one for each epoch, in order."""

  def __init__(self, workdir: str):
    self._path = os.path.join(workdir, METRICS)
    self.rows: list[dict[str, Any]] = []
    if os.path.exists(self._path):
      with open(self._path, encoding='utf-8', errors='replace') as file:
        self.rows = list(_parse(file))

  def truncate(self, step: int, until: float = math.inf) -> None:
    """Forgets what came after a step, because it is done again.

    Args:
      step: of the whole run; its own row is kept.
      until: the last step that is done again; rows beyond it are kept.
    """
    self.rows = [row for row in self.rows if not step < row['step'] <= until]
    self._write()

  def append(self, row: dict[str, Any]) -> None:
    """Adds a row.

    Args:
      row: with `step`, which no other row has.
    """
    is_last = not self.rows or self.rows[-1]['step'] < row['step']
    self.rows = sorted([*self.rows, row], key=lambda row: row['step'])
    if is_last:
      with open(self._path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(row) + '\n')
    else:
      self._write()

  def _write(self) -> None:
    lines = [json.dumps(row) + '\n' for row in self.rows]
    files.write_bytes(self._path, ''.join(lines).encode())


def _parse(lines: IO[str]) -> Iterator[dict[str, Any]]:
  """The rows up to the first line that was not written whole."""
  for line in lines:
    try:
      row = json.loads(line)
    except ValueError:
      return
    if not (line.endswith('\n') and isinstance(row, dict) and 'step' in row):
      return
    yield row
