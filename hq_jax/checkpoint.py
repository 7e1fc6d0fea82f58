"""Checkpoints of state, data iterator and a few plain values, by Orbax."""

import os
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from hq_jax import train_state


class Checkpoints:
  """The checkpoints of one stage of training.

  Each step holds the state, the place in the data, and a dictionary that JSON
  can hold. The last two steps are kept.
  """

  def __init__(self, directory: str):
    self._manager = ocp.CheckpointManager(
      os.path.abspath(directory),
      options=ocp.CheckpointManagerOptions(max_to_keep=2),
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
      ValueError: where there is no step, or its arrays differ.
    """
    step = self.latest_step()
    if step is None:
      raise ValueError(f'{self._manager.directory} holds no checkpoint')
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items: dict[str, Any] = {'state': ocp.args.StandardRestore(target)}
    if iterator is not None:
      items['data'] = grain.checkpoint.CheckpointRestore(iterator)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return restored['state']

  def close(self) -> None:
    """Waits for what is under way and frees what Orbax holds."""
    self._manager.close()
