"""The run: dense stage, compression stage, file, report."""

from collections.abc import Callable, Collection, Mapping
import itertools
import os
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import report
from hq_jax import transforms
from hq_jax.baselines import method as baselines
from hq_jax.compression import method
from hq_jax.core import trees
from hq_jax.data import eval_batches
from hq_jax.runtime import distributed
from hq_jax.runtime import preemption
from hq_jax.runtime import provenance
from hq_jax.runtime import sharding
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import evaluate
from hq_jax.training import export
from hq_jax.training import loop
from hq_jax.training import optimizers
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state


def run(
  job: setup_lib.Job, watch: preemption.Watch | None = None
) -> dict[str, Any] | None:
  """Trains, compresses, writes the file, reads it back, and reports.

  A run that was interrupted goes on from its newest checkpoint and ends with
  the same bytes.

  Args:
    job: of `setup.prepare`.
    watch: knows whether to stop; None for a run that no signal stops.

  Returns:
    The report, as in `report.json`; None in all processes but the first.

  Raises:
    FloatingPointError: where a loss, a gradient or a weight is no longer a
      number.
    OSError: where the disk is full.
    preemption.Stopped: where a signal came; all is saved.
    ValueError: where `model.hq` is there already and is another model.
  """
  watch = watch or preemption.Watch(job.mesh)
  history = workdir_lib.History(job.workdir, is_kept=distributed.is_primary())
  evaluate_on_test = make_evaluation(job)
  with watch.finishing_steps():
    dense = fit_dense(job, history, evaluate_on_test, watch)
    job, state = compress(job, dense, history, evaluate_on_test, watch)
  exported = export.export_model(job, state, is_last=True)
  path = os.path.join(job.workdir, workdir_lib.MODEL)
  write = lambda: write_model(job.workdir, exported)
  distributed.raise_on_all(
    lambda: write() if distributed.is_primary() else None
  )
  # What the first process reads back is what all evaluate.
  data = _read(path) if distributed.is_primary() else None
  data = distributed.broadcast_bytes(data)
  evaluations = {
    'dense': evaluate_on_test(dense.variables),
    'ternary': evaluate_on_test(artifact_lib.to_variables(exported)),
    'file': evaluate_on_test(
      artifact_lib.to_variables(artifact_lib.loads(data, path))
    ),
  }
  latents = transforms.latents(state.opt_state, state.params)
  dense_kernels = _host_kernels(dense.params, job.select)
  latent_kernels = _host_kernels(latents, job.select)
  unreadable = distributed.gather(list(job.unreadable.names))
  if not distributed.is_primary():
    return None
  return report.write(
    job.workdir,
    report.Inputs(
      dense_kernels=dense_kernels,
      latent_kernels=latent_kernels,
      file_path=path,
      dense_bytes=job.plan.dense_bytes,
      num_weights=job.plan.dense_bytes // 4,
      **evaluations,
      history=[_align(row, dense_kernels) for row in history.rows],
      config=config_lib.to_dict(job.config),
      seed=job.config.seed,
      commit=provenance.get_commit(),
      hardware=provenance.get_hardware(),
      predicted_bytes=job.plan.predicted_bytes,
      unreadable=tuple(itertools.chain(*unreadable)),
    ),
  )


def make_evaluation(job: setup_lib.Job) -> Callable[..., dict[str, Any]]:
  """Makes the evaluation on a job's test images."""
  eval_step = evaluate.make_eval_step(job.model)
  batches = eval_batches.make_eval_batches(
    job.dataset.test,
    preprocessing=job.header['preprocessing'],
    batch_size=job.config.batch_size,
    unreadable=job.unreadable,
    num_threads=job.config.data.num_threads,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )

  def evaluate_on_test(variables, before_batch=lambda: None):
    return evaluate.evaluate(
      eval_step, variables, batches, job.mesh, before_batch
    )

  return evaluate_on_test


def fit_dense(
  job: setup_lib.Job,
  history: workdir_lib.History,
  evaluate_on_test: Callable[..., dict[str, Any]],
  watch: preemption.Watch,
) -> train_state.TrainState:
  """Trains the dense network, or goes on with it."""
  stage = make_dense_stage(job)
  dense = loop.fit(
    job,
    stage,
    lambda: train_state.init(
      job.model,
      stage.tx,
      jax.random.key(job.config.seed),
      job.dataset.image_shape,
      job.mesh,
      job.pretrained,
    ),
    history,
    evaluate_on_test,
    watch,
  )
  # Of no use any more, and twice the size of the network or more.
  return dense.replace(opt_state=())


def compress(
  job: setup_lib.Job,
  dense: train_state.TrainState,
  history: workdir_lib.History,
  evaluate_on_test: Callable[..., dict[str, Any]],
  watch: preemption.Watch,
) -> tuple[setup_lib.Job, train_state.TrainState]:
  """Plans anew for a dense network, and compresses it, or goes on with that."""
  job = setup_lib.replan(job, sharding.to_host(dense.variables))
  stage = make_compress_stage(job, dense.variables)
  state = loop.fit(
    job,
    stage,
    lambda: train_state.restart(dense, stage.tx, job.mesh),
    history,
    evaluate_on_test,
    watch,
  )
  return job, state


def make_dense_stage(job: setup_lib.Job) -> stages.Stage:
  """The stage that trains the dense network."""
  config = job.config
  schedule = optimizers.make_schedule([config.dense], job.steps_per_epoch)
  return stages.Stage(
    name='dense',
    tx=optimizers.make_optimizer(config.optimizer, schedule),
    schedule=schedule,
    first_epoch=0,
    phases=(('dense', config.dense.epochs),),
    seed=2 * config.seed,
  )


def make_compress_stage(
  job: setup_lib.Job, dense_variables: Any = None
) -> stages.Stage:
  """The stage that prunes and makes ternary."""
  config = job.config
  schedule = optimizers.make_schedule(
    [config.prune, config.ternary], job.steps_per_epoch
  )
  return stages.Stage(
    name='compress',
    tx=method.make_transformation(
      optimizers.make_optimizer(config.optimizer, schedule),
      job.recipe,
      baselines.make_quantizer(config, schedule),
      job.select,
    ),
    schedule=schedule,
    first_epoch=config.dense.epochs,
    phases=(('prune', config.prune.epochs), ('ternary', config.ternary.epochs)),
    seed=2 * config.seed + 1,
    teacher=dense_variables if config.distill.weight else None,
  )


def write_model(workdir: str, exported: artifact_lib.Artifact) -> str:
  """Writes `model.hq`, or finds it written already."""
  path = os.path.join(workdir, workdir_lib.MODEL)
  if os.path.exists(path):
    if _read(path) != artifact_lib.dumps(exported):
      raise ValueError(
        f'{path} is not the model that this run ends with: move it away'
      )
    return path
  artifact_lib.write(path, exported)
  return path


def _read(path: str) -> bytes:
  with open(path, 'rb') as file:
    return file.read()


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
    path: sharding.to_host(leaf)
    for path, leaf in trees.flatten_selected(params, select).items()
  }
