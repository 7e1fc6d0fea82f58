"""Checkpoints of the state and of the place in the data, by Orbax.

Orbax notices no damage. So each step holds fingerprints of what is in it, and a
step that does not match its own is set aside for the one before.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import gc
import hashlib
import json
import logging as std_logging
import os
import re
import sys
from typing import Any, TypeVar

from absl import logging
import grain
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from hq_jax import fingerprints
from hq_jax import train_state

_T = TypeVar('_T')
_DAMAGED = 'damaged'
_NUM_SHOWN = 3  # Leaves in a message.
# About the machine or the user, not about what is in the files.
_NOT_DAMAGE = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)


class _DamagedError(ValueError):
  """What is in a step is not what was saved."""


class Checkpoints:
  """The checkpoints of one stage of training.

  Each step holds the state, the place in the data, and in `meta` the type,
  shape and fingerprint of each leaf and a digest of all but the state.

  Args:
    directory: of this stage alone; made where there is none.
    keep: how many of the newest steps stay, >= 2: an older one is there to fall
      back on.
    keep_every: steps that are multiples of it stay too.

  Raises:
    ValueError: where one of these is too small.
  """

  def __init__(
    self, directory: str, *, keep: int = 2, keep_every: int | None = None
  ):
    if keep < 2:
      raise ValueError(f'keep is {keep}, wanted at least 2 steps')
    if keep_every is not None and keep_every < 1:
      raise ValueError(f'keep_every is {keep_every}, wanted at least 1 step')
    self._directory = os.path.abspath(directory)
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, keep_period=keep_every
    )
    with _quiet_orbax():
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=options,
        item_handlers={
          'state': ocp.StandardCheckpointHandler(),
          'data': ocp.JsonCheckpointHandler(),
          'meta': ocp.JsonCheckpointHandler(),
        },
      )

  def latest_step(self) -> int | None:
    """The newest step, damaged or not, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: train_state.TrainState,
    iterator: grain.DatasetIterator,
  ) -> None:
    """Saves a step; it is on the disk when this returns.

    Args:
      step: above the newest saved one.
      state: what to save.
      iterator: the training batches, just behind the last one used.

    Raises:
      RuntimeError: where Orbax did not save.
    """
    data = {'iterators': _gather(iterator.get_state())}
    meta = {'step': step, 'leaves': fingerprints.describe(state)}
    meta['digest'] = _digest(data, meta)
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        meta=ocp.args.JsonSave(meta),
      ),
    )
    # The next step donates the state: on CPU Orbax may still read from it.
    self._manager.wait_until_finished()
    if not saved:
      raise RuntimeError(f'step {step} was not saved: is it there already?')

  def restore(
    self,
    like: train_state.TrainState,
    iterator: grain.DatasetIterator | None = None,
  ) -> train_state.TrainState:
    """Restores the newest step that is as it was saved.

    Damaged steps above it are moved to `damaged/`, and a warning says so. Where
    there is no such step, all stay where they are.

    Args:
      like: a state of the same shapes, types and shardings.
      iterator: put back to where it was; None leaves it out.

    Returns:
      The state; its own `step` tells which checkpoint it is of.

    Raises:
      ValueError: where there is no step, all are damaged, or the arrays of the
        newest good one have other paths, shapes or types.
    """
    reasons: dict[int, str] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      found = self._try(step, like, reasons)
      if found is not None:
        state, states = found
        if iterator is not None:
          _set_state(iterator, states, f'{self._directory}/{step}')
        self._set_aside(reasons, step)
        return state
    if not reasons:
      raise ValueError(f'{self._directory} holds no checkpoint')
    listed = '; '.join(f'step {s} {reason}' for s, reason in reasons.items())
    raise ValueError(
      f'{self._directory} holds no checkpoint that is whole: {listed}'
    )

  def close(self) -> None:
    """Waits for what is under way and frees what Orbax holds."""
    self._manager.close()

  def _try(
    self, step: int, like: train_state.TrainState, reasons: dict[int, str]
  ) -> tuple[train_state.TrainState, list[Any]] | None:
    """State and states of iterators of a step, or None and the reason.

    All processes go on together: what one finds damaged, all do.
    """
    found, reasons[step] = _attempt(lambda: self._read_meta(step))
    if found is None:
      return None
    data, meta = found
    leaves = {path: leaf[0] for path, leaf in meta['leaves'].items()}
    _check_like(f'{self._directory}/{step}', leaves, like)
    read = lambda: self._read_state(step, like, meta['leaves'])
    state, reasons[step] = _attempt(read)
    if state is None:
      return None
    del reasons[step]
    return state, data['iterators']

  def _read_meta(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON items, which vouch for one another."""
    for name in ('state', 'data', 'meta'):
      if not os.path.isdir(os.path.join(self._directory, str(step), name)):
        raise _DamagedError(f'has no {name}')
    restore = ocp.args.JsonRestore()
    found = self._manager.restore(
      step, args=ocp.args.Composite(data=restore, meta=restore)
    )
    data, meta = found['data'], found['meta']
    digest = meta.pop('digest', None)
    if digest != _digest(data, meta) or meta['step'] != step:
      raise _DamagedError('has another data or meta than was saved')
    return data, meta

  def _read_state(
    self,
    step: int,
    like: train_state.TrainState,
    leaves: Mapping[str, list[str]],
  ) -> train_state.TrainState:
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
    )
    state = restored['state']
    _check_fingerprints(fingerprints.describe(state), leaves)
    return state

  def _set_aside(self, reasons: Mapping[int, str], good: int) -> None:
    """Moves damaged steps to where nothing looks for them, and says so."""
    if not reasons:
      return
    for step, reason in reasons.items():
      if jax.process_index() == 0:
        moved = _move(self._directory, step)
        name = f'{self._directory}/{step}'
        logging.warning(
          '%s %s: moved to %s, step %d is used', name, reason, moved, good
        )
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged checkpoints are set aside')
    self._manager.reload()


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Drops what Orbax says of damaged steps: pages, and `restore` says it."""
  loggers = logging.get_absl_logger(), std_logging.getLogger('asyncio')
  is_ours = lambda record: not re.search('/(orbax|asyncio)/', record.pathname)
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  for logger in loggers:
    logger.addFilter(is_ours)
  try:
    yield
  finally:
    sys.unraisablehook = hook
    for logger in loggers:
      logger.removeFilter(is_ours)


def _attempt(read: Callable[[], _T]) -> tuple[_T | None, str]:
  """What is read, or None and why not: the same in all processes."""
  found, reason = None, ''
  with _quiet_orbax():
    try:
      found = read()
    except _NOT_DAMAGE:
      raise
    except Exception as error:  # Orbax raises all kinds for damaged files.
      reason = _to_line(error)
    if reason:
      # Reads that Orbax gave up complain when they are collected: here.
      gc.collect()
  reason = _agree(reason)
  return (None, reason) if reason else (found, '')


def _move(directory: str, step: int) -> str:
  """Moves a step to a name of its own below `damaged/`; which one."""
  os.makedirs(os.path.join(directory, _DAMAGED), exist_ok=True)
  name, count = f'{_DAMAGED}/{step}', 1
  while os.path.lexists(os.path.join(directory, name)):
    count += 1
    name = f'{_DAMAGED}/{step}.{count}'
  os.rename(os.path.join(directory, str(step)), os.path.join(directory, name))
  return name


def _digest(data: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
  text = json.dumps([data, meta], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _to_line(error: Exception) -> str:
  """What went wrong, as the end of a sentence about the step."""
  if isinstance(error, _DamagedError):
    return str(error)
  text = ' '.join(str(error).split())
  return f'cannot be read ({type(error).__name__}: {text[:160]})'


def _gather(value: Any) -> list[Any]:
  """What each process has: something that JSON can hold."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(text.size))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: text.size] = text
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes, strict=True)
  ]


def _agree(reason: str) -> str:
  """The first reason that a process has, the same in all; '' without one."""
  return next(filter(None, _gather(reason)), '')


def _set_state(
  iterator: grain.DatasetIterator, states: list[Any], name: str
) -> None:
  """Puts an iterator back, from the states of all processes."""
  if len(states) == jax.process_count():
    iterator.set_state(states[jax.process_index()])
  # Batches are shared out evenly: the place is the same for all.
  elif all(state == states[0] for state in states):
    iterator.set_state(states[0])
  else:
    raise ValueError(
      f'{name} holds iterators of {len(states)} processes, wanted'
      f' {jax.process_count()}'
    )


def _check_fingerprints(
  found: Mapping[str, list[str]], saved: Mapping[str, list[str]]
) -> None:
  changed = [path for path in saved if found[path] != saved[path]]
  if changed:
    more = f' and {len(changed) - _NUM_SHOWN} more'
    raise _DamagedError(
      f'has other bits than were saved in {", ".join(changed[:_NUM_SHOWN])}'
      f'{more if len(changed) > _NUM_SHOWN else ""}'
    )


def _check_like(
  name: str, theirs: Mapping[str, str], like: train_state.TrainState
) -> None:
  """Refuses to restore arrays of other paths, shapes or types.

  Orbax would cast to another type in silence.
  """
  ours = fingerprints.describe_types(like)
  differences = [
    f'{path} is {theirs.get(path, "not there")}, wanted'
    f' {ours.get(path, "no such array")}'
    for path in dict.fromkeys([*ours, *theirs])
    if theirs.get(path) != ours.get(path)
  ]
  if differences:
    more = f'; and {len(differences) - _NUM_SHOWN} more'
    raise ValueError(
      f'{name}: {"; ".join(differences[:_NUM_SHOWN])}'
      f'{more if len(differences) > _NUM_SHOWN else ""}'
    )
