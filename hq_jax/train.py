"""The run: dense stage, compression stage, file, report."""

import os
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import deploy
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
from hq_jax.data import pipeline


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
  batches = pipeline.make_eval_batches(
    job.dataset.test,
    preprocessing=job.header['preprocessing'],
    batch_size=job.config.batch_size,
  )

  def evaluate_on_test(variables):
    return evaluate.evaluate(eval_step, variables, batches, job.mesh)

  dense_stage, compress_stage = make_stages(job)
  dense = loop.fit(
    job,
    dense_stage,
    lambda: train_state.init(
      job.model,
      dense_stage.tx,
      jax.random.key(job.config.seed),
      job.dataset.image_shape,
      job.mesh,
    ),
    history,
    evaluate_on_test,
  )
  state = loop.fit(
    job,
    compress_stage,
    lambda: train_state.restart(dense, compress_stage.tx, job.mesh),
    history,
    evaluate_on_test,
  )
  shipped = deploy.artifact_of_state(state, job.recipe, **job.header)
  path = write_model(job.workdir, shipped)
  latents = transforms.latents(state.opt_state, state.params)
  return report.write(
    job.workdir,
    report.Inputs(
      dense_kernels=_host_kernels(dense.params),
      latent_kernels=_host_kernels(latents),
      file_path=path,
      dense_bytes=job.dense_bytes,
      num_weights=job.dense_bytes // 4,
      dense=evaluate_on_test(dense.variables),
      ternary=evaluate_on_test(artifact_lib.to_variables(shipped)),
      file=evaluate_on_test(artifact_lib.to_variables(artifact_lib.read(path))),
      history=history.rows,
      config=config_lib.to_dict(job.config),
      seed=job.config.seed,
      commit=provenance.get_commit(),
      hardware=provenance.get_hardware(),
    ),
  )


def make_stages(job: job_lib.Job) -> tuple[loop.Stage, loop.Stage]:
  """The dense stage and the compression stage of a job.

  Args:
    job: of `job.prepare`.

  Returns:
    Two stages, in their order.
  """
  config = job.config
  schedule = optimizers.make_schedule([config.dense], job.steps_per_epoch)
  dense = loop.Stage(
    name='dense',
    tx=optimizers.make_optimizer(config.optimizer, schedule),
    schedule=schedule,
    first_epoch=0,
    phases=(('dense', config.dense.epochs),),
    seed=2 * config.seed,
  )
  schedule = optimizers.make_schedule(
    [config.prune, config.ternary], job.steps_per_epoch
  )
  compress = loop.Stage(
    name='compress',
    tx=transforms.hq(
      optimizers.make_optimizer(config.optimizer, schedule), job.recipe
    ),
    schedule=schedule,
    first_epoch=config.dense.epochs,
    phases=(('prune', config.prune.epochs), ('ternary', config.ternary.epochs)),
    seed=2 * config.seed + 1,
  )
  return dense, compress


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


def _host_kernels(params: Any) -> dict[str, np.ndarray]:
  return {
    path: np.asarray(leaf)
    for path, leaf in trees.flatten_selected(params).items()
  }
