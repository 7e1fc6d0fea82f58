"""The steps of one stage of training on the disk."""

from collections.abc import Callable, Mapping
import errno
import os
import time
from typing import Any

from absl import logging
import chex
import grain
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import orbax.checkpoint as ocp

from hq_jax.runtime import distributed
from hq_jax.runtime import provenance
from hq_jax.runtime.checkpoint import fingerprints
from hq_jax.runtime.checkpoint import integrity
from hq_jax.runtime.checkpoint import orbax_io
from hq_jax.runtime.checkpoint import retention
from hq_jax.runtime.checkpoint import steps

_DAMAGED = 'damaged'
_VISIBLE_SECONDS = 100.0


class Checkpoints:
  """The checkpoints of one stage of training.

  Each step holds the state, the place in the data, and in `meta` the config,
  the type, shape and fingerprint of each leaf, and a digest of all but the
  state. Several processes open, save and restore together.

  Args:
    directory: of this stage alone; made where there is none.
    config: nested dictionaries that JSON can hold: a step of another config is
      refused.
    keep: how many of the newest steps stay, >= 2: an older one is there to fall
      back on.
    keep_every: steps that are multiples of it stay too.
    get_score: the step with the greatest score stays too, see
      `retention.KeepPolicy`.

  Raises:
    ValueError: where one of these is too small.
  """

  def __init__(
    self,
    directory: str,
    config: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
    keep_every: int | None = None,
    get_score: Callable[[int], Any] | None = None,
  ):
    if keep < 2:
      raise ValueError(f'keep is {keep}, wanted at least 2 steps')
    if keep_every is not None and keep_every < 1:
      raise ValueError(f'keep_every is {keep_every}, wanted at least 1 step')
    self._directory = os.path.abspath(directory)
    self._config = dict(config or {})
    self._is_under_way = False  # whether a step may not be on the disk yet
    options = ocp.CheckpointManagerOptions(
      preservation_policy=retention.KeepPolicy(keep, keep_every, get_score),
      # Of saves that were killed.
      cleanup_tmp_directories=True,
    )
    with orbax_io.quiet_orbax():
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=options,
        item_handlers={
          'state': ocp.StandardCheckpointHandler(),
          'data': ocp.JsonCheckpointHandler(),
          'meta': ocp.JsonCheckpointHandler(),
        },
      )
    self._sync_steps()

  def latest_step(self) -> int | None:
    """The newest step, damaged or not, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: chex.ArrayTree,
    iterator: grain.DatasetIterator,
  ) -> None:
    """Begins to save a step, in the background.

    It is whole on the disk when `wait` or the next `save` returns; until then
    it does not count as a step. The arrays may be donated meanwhile.
    """
    self.wait()
    data = {'iterators': distributed.gather(iterator.get_state())}
    meta = {
      'step': step,
      'config': self._config,
      'environment': provenance.get_environment(),
      'leaves': fingerprints.describe(state),
    }
    meta['digest'] = integrity.get_digest(data, meta)
    if jax.default_backend() == 'cpu':
      # Orbax would read from arrays that the next step writes to.
      state = _copy(state)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      data=ocp.args.JsonSave(data),
      meta=ocp.args.JsonSave(meta),
    )
    self._is_under_way = True
    saved = self._run(lambda: self._manager.save(step, args=args))
    if not saved:
      raise RuntimeError(f'step {step} was not saved: is it there already?')

  def check(self) -> None:
    """Refuses to go on where a step could not be written; waits for nothing."""
    # Orbax's own check finds nothing: its thread has taken the error.
    if self._is_under_way and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until what was saved is on the disk."""
    self._is_under_way = False
    self._run(self._manager.wait_until_finished)

  def restore(
    self,
    like: chex.ArrayTree,
    iterator: grain.DatasetIterator | None = None,
  ) -> Any:
    """Restores the newest step that is as it was saved.

    Damaged steps above it are moved to `damaged/`, and a warning says so. Where
    there is no such step, all stay where they are.
    """
    self.wait()
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
    self._run(self._manager.close)

  def _run(self, call: Callable[[], Any]) -> Any:
    """Calls Orbax; what a thread of it could not write is an OSError."""
    cause: Exception
    try:
      return call()
    except OSError as error:
      if error.filename is not None or error.errno is None:
        raise
      number, said, cause = error.errno, os.strerror(error.errno), error
    except ValueError as error:
      # TensorStore raises one that holds what the system said.
      said, number, cause = ' '.join(str(error).split())[:200], errno.EIO, error
      if 'RESOURCE_EXHAUSTED' in str(error):
        said, number = os.strerror(errno.ENOSPC), errno.ENOSPC
    failed = OSError(
      f'{self._directory}: a checkpoint cannot be written ({said})'
    )
    failed.errno = number
    raise failed from cause

  def _try(
    self, step: int, like: chex.ArrayTree, reasons: dict[int, str]
  ) -> tuple[Any, list[Any]] | None:
    """Reads the state and the iterators of a step; None if it is damaged.

    A step that is damaged for one process is damaged for all of them.
    """
    found, reasons[step] = orbax_io.attempt(lambda: self._read_meta(step))
    if found is None:
      return None
    data, meta = found
    name = f'{self._directory}/{step}'
    integrity.check_config(name, meta['config'], self._config)
    leaves = {path: leaf[0] for path, leaf in meta['leaves'].items()}
    integrity.check_like(name, leaves, like)
    read = lambda: self._read_state(step, like)
    state, reasons[step] = orbax_io.attempt(read)
    if state is None:
      return None
    # Computed by all processes together: once all of them have read.
    now, saved = fingerprints.describe(state), meta['leaves']
    check = lambda: integrity.check_fingerprints(now, saved)
    _, reasons[step] = orbax_io.attempt(check)
    if reasons[step]:
      return None
    del reasons[step]
    changes = integrity.describe_changes(meta.get('environment', {}))
    if changes and distributed.is_primary():
      logging.warning(
        '%s was saved elsewhere (%s): the run goes on, and ends with other'
        ' bits than it would have there',
        name,
        changes,
      )
    return state, data['iterators']

  def _read_meta(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    data, meta = steps.read_meta(os.path.join(self._directory, str(step)))
    if meta['step'] != step:
      raise orbax_io.DamagedError('has another data or meta than was saved')
    return data, meta

  def _read_state(self, step: int, like: chex.ArrayTree) -> Any:
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.StandardRestore(target)
    path = os.path.join(self._directory, str(step))
    handler = ocp.StandardCheckpointHandler()
    return steps.read_item(path, 'state', handler, args)

  def _set_aside(self, reasons: Mapping[int, str], good: int) -> None:
    """Moves damaged steps to `damaged/`, with a warning."""
    if not reasons:
      return
    for step, reason in reasons.items():
      if distributed.is_primary():
        moved = _move(self._directory, step)
        name = f'{self._directory}/{step}'
        logging.warning(
          '%s %s: moved to %s, step %d is used', name, reason, moved, good
        )
    if not distributed.is_single_process():
      multihost_utils.sync_global_devices('damaged checkpoints are set aside')
    self._manager.reload()
    self._sync_steps()

  def _sync_steps(self) -> None:
    """Waits until every process sees the steps that process 0 does.

    A network file system shows new and deleted files up to a minute late to
    other hosts, and processes must restore the same step.
    """
    wanted = distributed.gather(sorted(self._manager.all_steps()))[0]
    deadline = time.monotonic() + _VISIBLE_SECONDS

    def wait():
      while sorted(self._manager.all_steps()) != wanted:
        if time.monotonic() > deadline:
          raise ValueError(
            f'{self._directory} has the steps {self._manager.all_steps()} here'
            f' and {wanted} for process 0, wanted a folder that all share'
          )
        time.sleep(1)
        self._manager.reload()

    distributed.raise_on_all(wait)


@jax.jit
def _copy(tree: chex.ArrayTree) -> Any:
  return jax.tree.map(jnp.copy, tree)


def _move(directory: str, step: int) -> str:
  """Moves a step to a new name below `damaged/` and returns the name."""
  os.makedirs(os.path.join(directory, _DAMAGED), exist_ok=True)
  name, count = f'{_DAMAGED}/{step}', 1
  while os.path.lexists(os.path.join(directory, name)):
    count += 1
    name = f'{_DAMAGED}/{step}.{count}'
  os.rename(os.path.join(directory, str(step)), os.path.join(directory, name))
  return name


def _set_state(
  iterator: grain.DatasetIterator, states: list[Any], name: str
) -> None:
  """Restores an iterator from the states of all processes."""
  if len(states) == jax.process_count():
    iterator.set_state(states[jax.process_index()])
  # Batches are split evenly: the position is the same for all.
  elif all(state == states[0] for state in states):
    iterator.set_state(states[0])
  else:
    raise ValueError(
      f'{name} holds iterators of {len(states)} processes, wanted'
      f' {jax.process_count()}'
    )
