"""The folder of a run: its config, its lock, and the history of metrics."""

from collections.abc import Iterator, Mapping, Sequence
import fcntl
import json
import math
import os
import shutil
import time
from typing import Any, IO
import zlib

from absl import logging

from hq_jax.runtime import atomic_write
from hq_jax.runtime import trackers as trackers_lib

CONFIG = 'config.json'
METRICS = 'metrics.jsonl'
MODEL = 'model.hq'
_DIGEST = 'digest'  # of the rest of a row
CHECKPOINTS = 'checkpoints'

# Fields that change the result by rounding at most: a run may go on with
# others.
_FREE_FIELDS = (
  'checkpoint.every_epochs',
  'checkpoint.every_steps',
  'checkpoint.keep',
  'checkpoint.keep_best',
  'checkpoint.keep_every_epochs',
  'data.data_dir',
  'data.max_unreadable',
  'data.num_threads',
  'data.num_workers',
  'max_skipped_steps',
  'measure_bias',
  'mesh.fsdp',
  'trackers',
  'pretrained',  # `inputs.pretrained` tells what is in it.
)

# Fields that were added later, with what runs did before.
_LATER_FIELDS: dict[str, Any] = {
  'data.class_names': None,
  'data.max_erased': 0.0,
  'dense_from': None,
  'optimizer.class_weights': None,
  'quantizer.int8': [],
}

# What the dense network does not depend on: fields, and groups of them.
_NOT_OF_DENSE = (
  *('dense_from', 'distill', 'fill_target', 'max_error', 'prune', 'quantizer'),
  *('recipe', 'target_ratio', 'ternary'),
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


def check_name(workdir: str) -> None:
  """Refuses what cannot be the folder of a run."""
  if not workdir:
    raise ValueError("workdir is '', wanted a folder: --workdir=DIR")
  if '://' in workdir:
    raise ValueError(
      f'workdir is {workdir}, wanted a folder of a file system: mount the'
      ' bucket, or better a network file system'
    )


def claim(
  workdir: str, config: Mapping[str, Any], wait_seconds: float = 0.0
) -> IO[str]:
  """Locks the folder for a run of this config; closing the file unlocks it."""
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ValueError(f'workdir is {workdir}, which is a file')
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path):
    _check_unused(workdir)
    os.makedirs(workdir, exist_ok=True)
  # Locked before it is read or written: of two processes that begin at once,
  # one gets the folder.
  lock = _open_locked(path, workdir, wait_seconds)
  try:
    text = lock.read()
    if text:
      _check_same(workdir, text, config)
      return lock
    _check_unused(workdir)
    content = json.dumps(config, indent=2, sort_keys=True) + '\n'
    # Locked before it takes its place, too.
    atomic_write.write_bytes(f'{path}.part', content.encode())
    whole = _open_locked(f'{path}.part', workdir, wait_seconds)
    atomic_write.replace(f'{path}.part', path)
  except BaseException:
    lock.close()
    raise
  lock.close()  # Only now: who waited for it sees that another took its place.
  return whole


def _open_locked(path: str, workdir: str, wait_seconds: float) -> IO[str]:
  """Opens and locks the file that is at a path, or an empty one."""
  while True:
    file = open(path, 'a+', encoding='utf-8', errors='replace')  # noqa: SIM115
    try:
      _lock(file, workdir, wait_seconds)
      if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
        file.seek(0)
        return file
    except FileNotFoundError:
      pass  # Somebody has deleted it.
    except BaseException:
      file.close()
      raise
    file.close()


def _lock(file: IO[str], workdir: str, wait_seconds: float) -> None:
  deadline = time.monotonic() + wait_seconds
  while True:
    try:
      return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() >= deadline:
        raise ValueError(
          f'workdir is {workdir}, in which another process is running'
        ) from None
    except OSError as error:
      raise ValueError(
        f'workdir is {workdir}, whose file system has no locks'
        f' ({error.strerror}), wanted one that has'
      ) from error
    time.sleep(0.2)


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
  for name, what in _INPUTS.items():
    if theirs.get(name) != dict(_flatten(config)).get(name):
      raise ValueError(f'workdir is {workdir}, but {what}')
  differences = find_differences(theirs, config)
  if differences:
    raise ValueError(
      f'workdir is {workdir}, which belongs to another config: {differences[0]}'
    )


def find_differences(
  theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> list[str]:
  """The fields that differ and decide the result of a run, in words."""
  there = _LATER_FIELDS | dict(_flatten(theirs))
  here = _LATER_FIELDS | dict(_flatten(ours))
  return [
    f'config.{name} is {there.get(name)!r} there and {here.get(name)!r} here'
    for name in sorted(there.keys() | here.keys())
    if name not in _FREE_FIELDS and there.get(name) != here.get(name)
  ]


def of_dense(config: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a config that the dense network depends on."""
  return {k: value for k, value in config.items() if k not in _NOT_OF_DENSE}


def join(
  workdir: str, config: Mapping[str, Any], wait_seconds: float = 90.0
) -> IO[str]:
  """Opens the folder that another process of the same run has claimed."""
  path = os.path.join(workdir, CONFIG)
  deadline = time.monotonic() + wait_seconds
  while not os.path.exists(path):
    if time.monotonic() >= deadline:
      raise ValueError(
        f'workdir is {workdir}, which has no {CONFIG} here, wanted a folder'
        ' that all processes share'
      )
    time.sleep(1)
  file = open(path, encoding='utf-8', errors='replace')  # noqa: SIM115
  try:
    _check_same(workdir, file.read(), config)
  except ValueError:
    file.close()
    raise
  return file


def _flatten(
  tree: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


class History:
  """The rows of `metrics.jsonl`, one for each epoch, in order.

  A line has a digest of its row. One that is damaged is left out with a
  warning, and the file as it was stays beside.

  Unless `is_kept`, another process of the same run writes the file. Trackers
  are told of each row that is added; before the first, of those before it.
  """

  def __init__(
    self,
    workdir: str,
    *,
    is_kept: bool = True,
    trackers: Sequence[trackers_lib.Tracker] = (),
  ):
    self._is_kept = is_kept
    self._trackers = trackers
    self._is_told = False
    self._path = os.path.join(workdir, METRICS)
    self.rows: list[dict[str, Any]] = []
    if os.path.exists(self._path):
      with open(self._path, encoding='utf-8', errors='replace') as file:
        parsed = [_parse(line) for line in file]
      self.rows = [row for row in parsed if row is not None]
      # A last line that is cut is of a run that was killed.
      damaged = [i for i, row in enumerate(parsed[:-1], 1) if row is None]
      if damaged and is_kept:
        self._set_aside(damaged)

  def truncate(self, step: int, until: float = math.inf) -> None:
    """Drops the rows after a step, whose epochs are run again."""
    self.rows = [row for row in self.rows if not step < row['step'] <= until]
    self._write()

  def append(self, row: dict[str, Any]) -> None:
    """Adds a row."""
    is_last = not self.rows or self.rows[-1]['step'] < row['step']
    self.rows = sorted([*self.rows, row], key=lambda row: row['step'])
    if is_last and self._is_kept:
      with open(self._path, 'a', encoding='utf-8') as file:
        file.write(_format(row))
        file.flush()
        os.fsync(file.fileno())  # Before a checkpoint that takes it as there.
    else:
      self._write()
    for tracker in self._trackers:
      tracker.log([row] if self._is_told else self.rows)
    self._is_told = True

  def close(self) -> None:
    """Closes the trackers."""
    for tracker in self._trackers:
      tracker.close()

  def _write(self) -> None:
    if not self._is_kept:
      return
    lines = ''.join(map(_format, self.rows))
    atomic_write.write_bytes(self._path, lines.encode())

  def _set_aside(self, damaged: Sequence[int]) -> None:
    copy = f'{self._path}.damaged'
    shutil.copyfile(self._path, copy)
    logging.warning(
      '%s: damaged and left out: line %s; the file as it was is %s',
      self._path,
      ', '.join(map(str, damaged)),
      copy,
    )
    self._write()


def _format(row: Mapping[str, Any]) -> str:
  """The line of a row."""
  return json.dumps({**row, _DIGEST: _get_digest(row)}) + '\n'


def _parse(line: str) -> dict[str, Any] | None:
  """The row of a line; None where it is damaged."""
  try:
    row = json.loads(line)
  except ValueError:
    return None
  if not (line.endswith('\n') and isinstance(row, dict) and 'step' in row):
    return None
  digest = row.pop(_DIGEST, None)  # Earlier versions wrote none.
  return row if digest in (None, _get_digest(row)) else None


def _get_digest(row: Mapping[str, Any]) -> str:
  return f'{zlib.crc32(json.dumps(row).encode()):08x}'
