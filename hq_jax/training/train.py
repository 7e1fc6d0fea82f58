"""The run: dense stage, compression stage, file, report."""

from collections.abc import Callable, Collection, Mapping
import contextlib
import itertools
import os
import time
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import report
from hq_jax import transforms
from hq_jax.compression import method as method_lib
from hq_jax.compression import planner
from hq_jax.core import trees
from hq_jax.data import normalization
from hq_jax.data import pictures
from hq_jax.data.sets import datasets
from hq_jax.runtime import distributed
from hq_jax.runtime import preemption
from hq_jax.runtime import provenance
from hq_jax.runtime import sharding
from hq_jax.runtime import terminal
from hq_jax.runtime import trackers
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import dense_from
from hq_jax.training import evaluate
from hq_jax.training import export
from hq_jax.training import loop
from hq_jax.training import messages
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state


def train(
  config: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  arrays: tuple[tuple[Any, Any], tuple[Any, Any]] | None = None,
) -> dict[str, Any] | None:
  """Trains and compresses a network, and writes its file and a report.

  Prints what it is going to do, a line for each epoch, and where the files are.
  A run that was interrupted goes on from its newest checkpoint and ends with
  the same bytes; one that has ended finds everything done. The folder is free
  again when it returns or raises.

  Args:
    config: of `config.get_defaults`, changed; or nested dictionaries.
    workdir: the run's folder, of this config alone; made where there is none.
    arrays: images and labels to train on, and those to test on, in place of
      what `config.data.name` names: uint8 `[n, h, w]` or `[n, h, w, c]` with
      one or three channels, and integers `[n]` from 0 on.

  Returns:
    The report, as in `report.json`; None in all processes but the first.

  Raises:
    FloatingPointError: where a loss, a gradient or a weight is no longer a
      number.
    OSError: where the disk is full.
    ValueError: with the field and its value, before anything compiles; where
      the folder is another run's, or `model.hq` there is another model.
  """
  dataset = None
  if arrays is not None:
    class_names = config_lib.validate(config).data.class_names
    dataset = datasets.from_arrays(*arrays, class_names=class_names)
  setup = setup_lib.prepare(config, workdir, dataset)
  with setup_lib.claim(setup):
    return run(setup)


def run(
  setup: setup_lib.Setup, watch: preemption.Watch | None = None
) -> dict[str, Any] | None:
  """Trains in a folder that is claimed; stops where a watch hears of a signal.

  See `train`; raises `preemption.Stopped` then, when all is saved.
  """
  if distributed.is_primary():
    terminal.show(messages.describe_setup(setup))
  watch = watch or preemption.Watch(setup.mesh)
  evaluation = make_evaluation(setup)
  with (
    contextlib.closing(open_history(setup)) as history,
    watch.finishing_steps(),
  ):
    dense = fit_dense(setup, history, evaluation, watch)
    plan, state = compress(setup, dense, history, evaluation, watch)
  exported = setup.method.export(plan, state)
  path, in_file = export.export_model(
    setup.workdir, exported, export.get_calibration_images(setup)
  )
  evaluations = {
    'dense': evaluation(dense.variables),
    'ternary': evaluation(artifact_lib.to_variables(exported)),
  }
  evaluations['file'], answers = evaluate.evaluate_answers(evaluation, in_file)
  select = method_lib.select_quantized(plan)
  latents = transforms.latents(state.opt_state, state.params)
  dense_kernels = _host_kernels(dense.params, select)
  latent_kernels = _host_kernels(latents, select)
  unreadable = distributed.gather(list(setup.unreadable.names))
  if not distributed.is_primary():
    return None
  result = report.write(
    setup.workdir,
    report.Inputs(
      dense_kernels=dense_kernels,
      latent_kernels=latent_kernels,
      file_path=path,
      dense_bytes=plan.dense_bytes,
      num_weights=plan.dense_bytes // 4,
      **evaluations,
      history=[_align(row, dense_kernels) for row in history.rows],
      config=config_lib.to_dict(setup.config),
      seed=setup.config.seed,
      commit=provenance.get_commit(),
      hardware=provenance.get_hardware(),
      predicted_bytes=plan.predicted_bytes,
      target_bytes=plan.target_bytes,
      unreadable=tuple(itertools.chain(*unreadable)),
      ignored=setup.dataset.ignored,
      answers=answers,
      pictures=read_pictures(setup, answers),
      command=provenance.get_command(),
      finished=time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
    ),
  )
  terminal.show(messages.describe_end(setup.workdir, result))
  return result


def open_history(setup: setup_lib.Setup) -> workdir_lib.History:
  """Opens the history of a run, and in the first process its trackers."""
  is_primary = distributed.is_primary()
  names = setup.config.trackers if is_primary else ()
  config = config_lib.to_dict(setup.config)
  found = distributed.raise_on_all(
    lambda: trackers.open_all(names, setup.workdir, config)
  )
  return workdir_lib.History(setup.workdir, is_kept=is_primary, trackers=found)


def read_pictures(
  setup: setup_lib.Setup, answers: report.Answers
) -> dict[int, np.ndarray]:
  """Reads the test images that the report shows."""
  chosen = report.find_worst(answers), report.find_right(answers)
  return pictures.read(
    setup.dataset.test,
    [place for some in chosen for place in some.position.tolist()],
    normalization.preprocessing(setup.dataset),
  )


def make_evaluation(setup: setup_lib.Setup) -> Callable[..., dict[str, Any]]:
  """Makes the evaluation of variables on the test images of a run."""
  return evaluate.make_evaluation(
    setup.config,
    setup.model,
    setup.dataset,
    setup.mesh,
    unreadable=setup.unreadable,
  )


def fit_dense(
  setup: setup_lib.Setup,
  history: workdir_lib.History,
  evaluation: Callable[..., dict[str, Any]],
  watch: preemption.Watch,
) -> train_state.TrainState:
  """Trains the dense network, or goes on with it."""
  if setup.config.dense_from is not None:
    num_steps = setup.config.dense.epochs * setup.steps_per_epoch
    source = setup.config.dense_from
    dense_from.take(setup.workdir, num_steps, source, history)
  stage = stages.make_dense_stage(setup)
  begin = train_state.make_init(
    setup.model,
    stage.tx,
    jax.random.key(setup.config.seed),
    setup.dataset.image_shape,
    setup.mesh,
    setup.pretrained.variables,
  )
  dense = loop.fit(setup, stage, begin, history, evaluation, watch)
  # Of no use any more, and twice the size of the network or more.
  return dense.replace(opt_state=())


def compress(
  setup: setup_lib.Setup,
  dense: train_state.TrainState,
  history: workdir_lib.History,
  evaluation: Callable[..., dict[str, Any]],
  watch: preemption.Watch,
) -> tuple[planner.Plan, train_state.TrainState]:
  """Plans for a dense network, and compresses it, or goes on with that."""
  plan = setup.method.plan(sharding.to_host(dense.variables))
  plans = distributed.gather(planner.sparsities(plan))
  if any(other != plans[0] for other in plans):
    # They would compile other programs, and wait for each other for ever.
    raise ValueError(
      'processes plan other sparsities from the same weights, wanted hosts with'
      ' the same CPUs and versions'
    )
  teacher = dense.variables if setup.config.distill.weight else None
  stage = stages.make_compress_stage(setup, plan, teacher)
  begin = train_state.make_restart(dense, stage.tx, setup.mesh)
  return plan, loop.fit(setup, stage, begin, history, evaluation, watch)


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
