"""Checkpoints of the state and of the place in the data, by Orbax."""

import os
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from hq_jax import train_state
from hq_jax import trees


class Checkpoints:
  """The checkpoints of one stage of training.

  Each step holds the state and the place in the data. The last two steps are
  kept.
  """

  def __init__(self, directory: str):
    self._manager = ocp.CheckpointManager(
      os.path.abspath(directory),
      options=ocp.CheckpointManagerOptions(max_to_keep=2),
      # Named here, so that `item_metadata` works before anything is saved.
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'data': grain.checkpoint.CheckpointHandler(),
      },
    )

  def latest_step(self) -> int | None:
    """The newest step that was saved whole, or None."""
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
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain.checkpoint.CheckpointSave(iterator),
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
    """Restores the newest step.

    Args:
      like: a state of the same shapes, types and shardings.
      iterator: put back to where it was; None leaves it out.

    Returns:
      The state.

    Raises:
      ValueError: where there is no step, or an array has another path, shape
        or type.
    """
    step = self.latest_step()
    if step is None:
      raise ValueError(f'{self._manager.directory} holds no checkpoint')
    # Orbax casts to another type in silence, and says of other differences
    # what only its authors understand.
    name = f'{self._manager.directory}/{step}'
    found = self._manager.item_metadata(step).get('state')
    if found is None:
      raise ValueError(f'{name} is no whole checkpoint: move it away')
    _check_like(name, found.tree, like)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items: dict[str, Any] = {'state': ocp.args.StandardRestore(target)}
    if iterator is not None:
      items['data'] = grain.checkpoint.CheckpointRestore(iterator)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return restored['state']

  def close(self) -> None:
    """Waits for what is under way and frees what Orbax holds."""
    self._manager.close()


def _check_like(name: str, found: Any, like: train_state.TrainState) -> None:
  """Refuses to restore arrays of other paths, shapes or types."""
  theirs = _describe(found)
  ours = _describe(like)
  for path in [*ours, *theirs]:
    if theirs.get(path) != ours.get(path):
      raise ValueError(
        f'{name}: {path} is {theirs.get(path, "not there")}, wanted'
        f' {ours.get(path, "no such array")}'
      )


def _describe(tree: Any) -> dict[str, str]:
  """For the path of each array its type and shape, as `float32[2, 3]`."""
  return {
    path: f'{leaf.dtype}{list(leaf.shape)}'
    for path, leaf in trees.flatten(tree).items()
  }
