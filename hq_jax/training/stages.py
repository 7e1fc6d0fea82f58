"""Parts of a run with their own optimizer and checkpoints."""

from typing import Any, NamedTuple

import optax


class Stage(NamedTuple):
  """A part of the run with its own optimizer and checkpoints.

  Attributes:
    name: of its folder of checkpoints.
    tx: the optimizer.
    schedule: its learning rate.
    first_epoch: epochs of the stages before.
    phases: name and epochs of each phase.
    seed: of the order of the images, and what else is drawn.
    teacher: variables of a network whose answers are learnt from.
  """

  name: str
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  first_epoch: int
  phases: tuple[tuple[str, int], ...]
  seed: int
  teacher: Any = None

  @property
  def num_epochs(self) -> int:
    """The epochs of all phases."""
    return sum(epochs for _, epochs in self.phases)

  def get_phase(self, epoch: int) -> str:
    """The phase that an epoch of this stage (from 1) belongs to."""
    for name, epochs in self.phases:
      if epoch <= epochs:
        return name
      epoch -= epochs
    return self.phases[-1][0]
