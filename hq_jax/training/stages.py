"""The two training stages: the dense network, and its compression."""

from typing import Any, NamedTuple

import optax

from hq_jax.compression import planner
from hq_jax.core import trees
from hq_jax.training import optimizers
from hq_jax.training import setup as setup_lib


class Stage(NamedTuple):
  """A part of the run with its own optimizer and checkpoints.

  Attributes:
    name: of its folder of checkpoints.
    plan: of the kernels that are watched, and of the file.
    tx: the optimizer.
    schedule: its learning rate.
    first_epoch: epochs of the stages before.
    phases: name and epochs of each phase.
    seed: of the order of the images, and what else is drawn.
    teacher: variables of a network whose answers are learnt from.
  """

  name: str
  plan: planner.Plan
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


def make_dense_stage(setup: setup_lib.Setup) -> Stage:
  """The stage that trains the dense network."""
  config = setup.config
  schedule = optimizers.make_schedule([config.dense], setup.steps_per_epoch)
  return Stage(
    name='dense',
    plan=setup.plan,
    tx=optimizers.make_optimizer(config.optimizer, schedule),
    schedule=schedule,
    first_epoch=0,
    phases=(('dense', config.dense.epochs),),
    seed=2 * config.seed,
  )


def make_compress_stage(
  setup: setup_lib.Setup, plan: planner.Plan, teacher: Any = None
) -> Stage:
  """The stage that prunes and makes ternary.

  No kernel on its sphere decays: the projection would put it back.
  """
  config = setup.config
  schedule = optimizers.make_schedule(
    [config.prune, config.ternary], setup.steps_per_epoch
  )
  on_sphere = setup.method.on_sphere(plan)
  optimizer = optimizers.make_optimizer(
    config.optimizer,
    schedule,
    lambda path, leaf: trees.kernels(path, leaf) and not on_sphere(path, leaf),
  )
  return Stage(
    name='compress',
    plan=plan,
    tx=setup.method.transformation(plan, optimizer, schedule),
    schedule=schedule,
    first_epoch=config.dense.epochs,
    phases=(('prune', config.prune.epochs), ('ternary', config.ternary.epochs)),
    seed=2 * config.seed + 1,
    teacher=teacher,
  )
