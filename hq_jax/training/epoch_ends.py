"""What is done when the steps of an epoch are: a row, a file, an evaluation."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.core import trees
from hq_jax.data import train_batches
from hq_jax.runtime import distributed
from hq_jax.runtime import sharding
from hq_jax.training import diagnostics
from hq_jax.training import export
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state


def make_watch(job: setup_lib.Job) -> Callable[[train_state.TrainState], Any]:
  """Makes the compiled diagnostics of a job's kernels."""
  compiled = functools.partial(
    jax.jit, out_shardings=sharding.replicated(job.mesh)
  )
  watch = compiled(functools.partial(_watch, job=job))
  if not job.config.measure_bias:
    return watch
  measure = compiled(functools.partial(_measure_bias, job=job))
  batch = sharding.to_global(_get_first_batch(job), job.mesh)
  return lambda state: watch(state) | {'ste_bias': measure(state, batch)}


def finish(
  job: setup_lib.Job,
  stage: stages.Stage,
  epoch: int,
  state: train_state.TrainState,
  train: Mapping[str, float],
  evaluate_on_test: Callable[[Any], dict[str, Any]],
) -> tuple[train_state.TrainState, dict[str, Any]]:
  """Ends an epoch: makes the file that it would ship, and evaluates it."""
  row = _make_row(job, stage, epoch, state, train)
  variables = state.variables
  if row['phase'] == 'ternary':  # What the file holds is evaluated.
    is_last = epoch == stage.num_epochs
    state, variables, found = _make_file(job, state, is_last)
    row |= found
  test = evaluate_on_test(variables)
  row['test_loss'], row['test_accuracy'] = test['loss'], test['accuracy']
  return state, row


def _make_row(
  job: setup_lib.Job,
  stage: stages.Stage,
  epoch: int,
  state: train_state.TrainState,
  train: Mapping[str, float],
) -> dict[str, Any]:
  """What training says of an epoch; refuses a loss that is not a number."""
  phase = stage.get_phase(epoch)
  if not np.isfinite(train['loss']):
    raise FloatingPointError(
      f'the training loss is {train["loss"]}, wanted a finite one'
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
  job: setup_lib.Job, state: train_state.TrainState, is_last: bool
) -> tuple[train_state.TrainState, dict[str, Any], dict[str, Any]]:
  """The state, steered to its target; the file's variables; what to log."""
  exported = export.export_model(job, state, is_last=is_last)
  data = artifact_lib.dumps(exported)
  row: dict[str, Any] = {'file_bytes': len(data)}
  if job.wanted_bytes is not None and not is_last:
    factor = rate_control.find_density_scale(
      exported, data, planner.sparsities(job.plan), job.wanted_bytes
    )
    factor = distributed.gather(factor)[0]  # One for all, to the last bit.
    row['density_scale'] = factor
    opt_state = transforms.with_density_scale(state.opt_state, factor)
    state = state.replace(opt_state=opt_state)
  return state, artifact_lib.to_variables(exported), row


def _watch(
  state: train_state.TrainState, job: setup_lib.Job
) -> dict[str, dict[str, jax.Array]]:
  latents = _get_latents(state)
  if job.recipe is None:
    return diagnostics.kernel_diagnostics(
      state.params, latents, select=job.select
    )
  kernels = trees.flatten_selected(state.params, job.select)
  return diagnostics.kernel_diagnostics(
    state.params,
    latents,
    sparsity=job.recipe.get_sparsity(kernels),
    scope=job.recipe.scope,
    unit_norm=job.recipe.project,
    select=job.select,
  )


def _get_latents(state: train_state.TrainState) -> Any:
  """The latent weights; in a stage that has none, the parameters."""
  if optax.tree.get(state.opt_state, 'latents') is None:
    return state.params
  return transforms.latents(state.opt_state, state.params)


def _get_first_batch(job: setup_lib.Job) -> train_batches.Batch:
  """The same images at every epoch and in every stage."""
  batches = train_batches.make_train_iterator(
    job.dataset,
    batch_size=job.config.batch_size,
    seed=job.config.seed,
    min_area=1.0,
    unreadable=job.unreadable,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  return next(batches)


def _measure_bias(
  state: train_state.TrainState, batch: train_batches.Batch, job: setup_lib.Job
) -> dict[str, jax.Array]:
  def get_loss(params):
    logits, _ = job.model.apply(
      {'params': params, 'batch_stats': state.batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return jnp.mean(losses)

  latents = _get_latents(state)
  grads = jax.grad(get_loss)
  return diagnostics.ste_bias(
    grads(state.params), grads(latents), select=job.select
  )
