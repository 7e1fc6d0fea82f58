"""The training loop."""

from collections.abc import Callable, Mapping
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tqdm

from hq_jax import artifact as artifact_lib
from hq_jax import checkpoint
from hq_jax import diagnostics
from hq_jax import job as job_lib
from hq_jax import metrics
from hq_jax import planner
from hq_jax import sharding
from hq_jax import steering
from hq_jax import train_state
from hq_jax import train_step
from hq_jax import transforms
from hq_jax import trees
from hq_jax import workdir as workdir_lib
from hq_jax.data import pipeline


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


def fit(
  job: job_lib.Job,
  stage: Stage,
  begin: Callable[[], train_state.TrainState],
  history: workdir_lib.History,
  evaluate_on_test: Callable[[Any], dict[str, Any]],
) -> train_state.TrainState:
  """Goes on from the newest checkpoint of a stage to its end.

  Args:
    job: of `job.prepare`.
    stage: which optimizer, how long.
    begin: makes the stage's first state.
    history: gets a row for each epoch.
    evaluate_on_test: from variables to metrics.

  Returns:
    The state at the end.

  Raises:
    FloatingPointError: where the loss is no longer a number.
  """
  config = job.config
  iterator = pipeline.make_train_iterator(
    job.dataset,
    batch_size=config.batch_size,
    seed=stage.seed,
    max_shift=config.data.max_shift,
    flip=config.data.flip,
    min_area=config.data.min_area,
    unreadable=job.unreadable,
    num_threads=config.data.num_threads,
  )
  checkpoints = checkpoint.Checkpoints(
    os.path.join(job.workdir, workdir_lib.CHECKPOINTS, stage.name)
  )
  state = begin()
  if checkpoints.latest_step() is not None:
    state = checkpoints.restore(state, iterator)
  first_step = int(state.step)  # Not of the newest checkpoint if it is damaged.
  first_epoch = first_step // job.steps_per_epoch
  if first_epoch < stage.num_epochs:
    # A later stage may have begun before this one's last checkpoint was lost.
    before = stage.first_epoch * job.steps_per_epoch
    until = before + stage.num_epochs * job.steps_per_epoch
    history.truncate(before + first_step, until)
  step_fn = train_step.make_train_step(
    job.model,
    stage.tx,
    seed=stage.seed,
    label_smoothing=config.optimizer.label_smoothing,
    mixup_alpha=config.data.mixup_alpha,
    cutmix_alpha=config.data.cutmix_alpha,
    distill_weight=config.distill.weight,
    temperature=config.distill.temperature,
  )
  watch = jax.jit(lambda state: _watch(state, job))
  every = config.checkpoint_every_epochs
  with tqdm.tqdm(
    total=stage.num_epochs * job.steps_per_epoch,
    initial=first_step,
    desc=stage.name,
    unit='step',
    disable=None,
  ) as bar:
    for epoch in range(first_epoch + 1, stage.num_epochs + 1):
      started = time.monotonic()
      sums = None
      for _ in range(job.steps_per_epoch):
        batch = sharding.to_global(next(iterator), job.mesh)
        state, batch_sums = step_fn(state, batch, stage.teacher)
        sums = metrics.add(sums, batch_sums)
        bar.update()
      row = _make_row(job, stage, epoch, state, metrics.means(sums or {}))
      variables = state.variables
      if row['phase'] == 'ternary':  # What the file holds is evaluated.
        is_last = epoch == stage.num_epochs
        state, variables, found = _make_file(job, state, is_last)
        row |= found
      test = evaluate_on_test(variables)
      row['test_loss'], row['test_accuracy'] = test['loss'], test['accuracy']
      row |= jax.tree.map(float, watch(state))
      row['seconds'] = time.monotonic() - started
      history.append(row)
      _show(bar, row)
      if epoch % every == 0 or epoch == stage.num_epochs:
        checkpoints.save(int(state.step), state, iterator)
  checkpoints.close()
  return state


def _make_row(
  job: job_lib.Job,
  stage: Stage,
  epoch: int,
  state: train_state.TrainState,
  train: Mapping[str, float],
) -> dict[str, Any]:
  """What training says of an epoch; refuses a loss that is not a number."""
  phase = stage.get_phase(epoch)
  if not np.isfinite(train['loss']):
    raise FloatingPointError(
      f'the training loss is {train["loss"]} in epoch'
      f' {stage.first_epoch + epoch} ({phase}), wanted a finite one: lower'
      f' config.{phase}.learning_rate'
    )
  step = int(state.step)
  return {
    'phase': phase,
    'step': stage.first_epoch * job.steps_per_epoch + step,
    'epoch': stage.first_epoch + epoch,
    'train_loss': train['loss'],
    'train_accuracy': train['accuracy'],
    'learning_rate': float(stage.schedule(step - 1)),
  }


def _make_file(
  job: job_lib.Job, state: train_state.TrainState, is_last: bool
) -> tuple[train_state.TrainState, dict[str, Any], dict[str, Any]]:
  """The state, steered to its target; the file's variables; what to log."""
  shipped = job_lib.ship(job, state, is_last=is_last)
  data = artifact_lib.dumps(shipped)
  row: dict[str, Any] = {'file_bytes': len(data)}
  if job.wanted_bytes is not None and not is_last:
    factor = steering.find_kept_factor(
      shipped, data, planner.sparsities(job.plan), job.wanted_bytes
    )
    row['kept_factor'] = factor
    opt_state = transforms.with_kept_factor(state.opt_state, factor)
    state = state.replace(opt_state=opt_state)
  return state, artifact_lib.to_variables(shipped), row


def _watch(
  state: train_state.TrainState, job: job_lib.Job
) -> dict[str, dict[str, jax.Array]]:
  latents = state.params
  if optax.tree.get(state.opt_state, 'latents') is not None:
    latents = transforms.latents(state.opt_state, state.params)
  kernels = trees.flatten_selected(state.params, job.select)
  return diagnostics.kernel_diagnostics(
    state.params,
    latents,
    sparsity=job.recipe.get_sparsity(kernels),
    scope=job.recipe.scope,
    unit_norm=job.recipe.project,
    select=job.select,
  )


def _show(bar: tqdm.tqdm, row: Mapping[str, Any]) -> None:
  if bar.disable:
    distance = np.mean(list(row['cosine_distance'].values()))
    print(
      f'{row["phase"]:7} epoch {row["epoch"]:3d}'
      f'  train loss {row["train_loss"]:.4f}'
      f'  test accuracy {row["test_accuracy"]:7.2%}'
      f'  cosine distance {distance:.3f}',
      flush=True,
    )
  else:
    bar.set_postfix_str(f'{row["phase"]}, test {row["test_accuracy"]:.2%}')
