"""The run: dense stage, compression stage, file, report."""

from collections.abc import Collection, Mapping
import os
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import evaluate
from hq_jax import job as job_lib
from hq_jax import loop
from hq_jax import optimizers
from hq_jax import provenance
from hq_jax import report
from hq_jax import train_state
from hq_jax import transforms
from hq_jax import trees
from hq_jax import workdir as workdir_lib
from hq_jax.data import eval_batches


def run(job: job_lib.Job) -> dict[str, Any]:
  """Trains, compresses, writes the file, reads it back, and reports.

  A run that was interrupted goes on from its newest checkpoint and ends with
  the same bytes.

  Args:
    job: of `job.prepare`.

  Returns:
    The report, as in `report.json`.

  Raises:
    FloatingPointError: where the loss is no longer a number.
    ValueError: where `model.hq` is there already and is another model.
  """
  history = workdir_lib.History(job.workdir)
  eval_step = evaluate.make_eval_step(job.model)
  batches = eval_batches.make_eval_batches(
    job.dataset.test,
    preprocessing=job.header['preprocessing'],
    batch_size=job.config.batch_size,
    unreadable=job.unreadable,
    num_threads=job.config.data.num_threads,
  )

  def evaluate_on_test(variables):
    return evaluate.evaluate(eval_step, variables, batches, job.mesh)

  dense_stage = make_dense_stage(job)
  dense = loop.fit(
    job,
    dense_stage,
    lambda: train_state.init(
      job.model,
      dense_stage.tx,
      jax.random.key(job.config.seed),
      job.dataset.image_shape,
      job.mesh,
      job.pretrained,
    ),
    history,
    evaluate_on_test,
  )
  job = job_lib.replan(job, dense.variables)
  compress_stage = make_compress_stage(job, dense.variables)
  state = loop.fit(
    job,
    compress_stage,
    lambda: train_state.restart(dense, compress_stage.tx, job.mesh),
    history,
    evaluate_on_test,
  )
  shipped = job_lib.ship(job, state, is_last=True)
  path = write_model(job.workdir, shipped)
  latents = transforms.latents(state.opt_state, state.params)
  dense_kernels = _host_kernels(dense.params, job.select)
  return report.write(
    job.workdir,
    report.Inputs(
      dense_kernels=dense_kernels,
      latent_kernels=_host_kernels(latents, job.select),
      file_path=path,
      dense_bytes=job.plan.dense_bytes,
      num_weights=job.plan.dense_bytes // 4,
      dense=evaluate_on_test(dense.variables),
      ternary=evaluate_on_test(artifact_lib.to_variables(shipped)),
      file=evaluate_on_test(artifact_lib.to_variables(artifact_lib.read(path))),
      history=[_align(row, dense_kernels) for row in history.rows],
      config=config_lib.to_dict(job.config),
      seed=job.config.seed,
      commit=provenance.get_commit(),
      hardware=provenance.get_hardware(),
      predicted_bytes=job.plan.predicted_bytes,
      unreadable=job.unreadable.names,
    ),
  )


def make_dense_stage(job: job_lib.Job) -> loop.Stage:
  """The stage that trains the dense network.

  Args:
    job: of `job.prepare`.

  Returns:
    The first stage.
  """
  config = job.config
  schedule = optimizers.make_schedule([config.dense], job.steps_per_epoch)
  return loop.Stage(
    name='dense',
    tx=optimizers.make_optimizer(config.optimizer, schedule),
    schedule=schedule,
    first_epoch=0,
    phases=(('dense', config.dense.epochs),),
    seed=2 * config.seed,
  )


def make_compress_stage(
  job: job_lib.Job, dense_variables: Any = None
) -> loop.Stage:
  """The stage that prunes and makes ternary.

  Args:
    job: with the plan for the weights that the stage begins with.
    dense_variables: of the dense network, the teacher where there is one.

  Returns:
    The second stage.
  """
  config = job.config
  schedule = optimizers.make_schedule(
    [config.prune, config.ternary], job.steps_per_epoch
  )
  return loop.Stage(
    name='compress',
    tx=transforms.hq(
      optimizers.make_optimizer(config.optimizer, schedule),
      job.recipe,
      job.select,
    ),
    schedule=schedule,
    first_epoch=config.dense.epochs,
    phases=(('prune', config.prune.epochs), ('ternary', config.ternary.epochs)),
    seed=2 * config.seed + 1,
    teacher=dense_variables if config.distill.weight else None,
  )


def write_model(workdir: str, shipped: artifact_lib.Artifact) -> str:
  """Writes `model.hq`, or finds it written already.

  Args:
    workdir: the run's folder.
    shipped: the model.

  Returns:
    The path of the file.

  Raises:
    ValueError: where another model is there.
  """
  path = os.path.join(workdir, workdir_lib.MODEL)
  if os.path.exists(path):
    with open(path, 'rb') as file:
      if file.read() != artifact_lib.dumps(shipped):
        raise ValueError(
          f'{path} is not the model that this run ends with: move it away'
        )
    return path
  artifact_lib.write(path, shipped)
  return path


def _align(row: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
  """A row whose tables have these kernels.

  What is ternary is planned anew when the dense network is there: until then
  others may have been watched.
  """
  return {
    name: {path: value.get(path) for path in paths}
    if isinstance(value, Mapping)
    else value
    for name, value in row.items()
  }


def _host_kernels(params: Any, select: trees.Selector) -> dict[str, np.ndarray]:
  return {
    path: np.asarray(leaf)
    for path, leaf in trees.flatten_selected(params, select).items()
  }
