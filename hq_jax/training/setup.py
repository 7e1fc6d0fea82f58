"""What a config and a workdir amount to, checked before anything compiles."""

from collections.abc import Mapping
import os
from typing import Any, IO, NamedTuple

from flax import linen as nn
import jax
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.compression import method
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.core import trees
from hq_jax.data import normalization
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets
from hq_jax.runtime import distributed
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import inputs
from hq_jax.training import optimizers

_LOCK_SECONDS = 120.0


class Job(NamedTuple):
  """A run that was checked and can begin.

  Attributes:
    config: validated.
    workdir: this run's own folder.
    identity: what a run must find again when it goes on.
    lock: held while the run lasts.
    dataset: opened.
    unreadable: counts the images that cannot be read.
    model: the Flax module.
    pretrained: the weights that training begins with, if not random ones.
    mesh: all devices.
    header: keyword arguments of `to_artifact.make_artifact`: what the file
      says, and how exactly.
    steps_per_epoch: the number of batches nearest to the training set's size.
    wanted_bytes: of the file, where the ternary phase steers to a target.
    plan: what the file is to be made of.
    recipe: in steps, with the sparsities of the plan; None with a quantizer
      that follows none.
    quantizer: that one; None where the recipe's is used.
    select: the kernels that become ternary, or are quantized by it.
    int8_kernels: paths of those that become int8.
  """

  config: config_lib.Config
  workdir: str
  identity: dict[str, Any]
  lock: IO[str] | None
  dataset: datasets.Dataset
  unreadable: threaded_reader.Unreadable
  model: nn.Module
  pretrained: dict[str, Any] | None
  mesh: jax.sharding.Mesh
  header: dict[str, Any]
  steps_per_epoch: int
  wanted_bytes: int | None
  plan: planner.Plan
  recipe: transforms.Recipe | None
  quantizer: transforms.Quantizer | None
  select: trees.Selector
  int8_kernels: tuple[str, ...]


def prepare(
  config: Mapping[str, Any],
  workdir: str,
  dataset: datasets.Dataset | None = None,
) -> Job:
  """Does all that can be refused, before anything compiles.

  Several processes call it together; what one of them refuses, all do.

  Args:
    config: a `ConfigDict` or nested dictionaries.
    workdir: the run's folder.
    dataset: what `config.data` names, opened before, or a part of it; None to
      open it.

  Returns:
    A job for `train.run`.

  Raises:
    ValueError: with the field and its value.
  """
  workdir_lib.check_name(workdir)
  checked = config_lib.validate(config)
  mesh = inputs.make_mesh(checked)
  optimizers.make_optimizer(checked.optimizer, lambda step: 0.0)
  dataset = dataset or distributed.first_then_others(
    lambda: inputs.load_dataset(checked.data)
  )
  job = distributed.raise_on_all(
    lambda: _check(checked, workdir, mesh, dataset)
  )
  claim = _claim if distributed.is_primary() else workdir_lib.join
  lock = distributed.first_then_others(lambda: claim(workdir, job.identity))
  return job._replace(lock=lock)


def _claim(workdir: str, identity: Mapping[str, Any]) -> IO[str]:
  """The lock of the folder, whose model, if it has one, is whole."""
  # A process that was killed on another host may be there for a while.
  wait_seconds = 0.0 if distributed.is_single_process() else _LOCK_SECONDS
  lock = workdir_lib.claim(workdir, identity, wait_seconds)
  path = os.path.join(workdir, workdir_lib.MODEL)
  try:
    if os.path.exists(path):
      artifact_lib.read(path)
  except (ValueError, OSError):
    lock.close()
    raise
  return lock


def _check(
  checked: config_lib.Config,
  workdir: str,
  mesh: jax.sharding.Mesh,
  dataset: datasets.Dataset,
) -> Job:
  """The job, without the lock of its folder."""
  inputs.check_dataset(checked, dataset)
  steps_per_epoch = round(len(dataset.train) / checked.batch_size)
  model, header = build_model(checked, dataset)
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *dataset.image_shape), np.float32),
  )
  pretrained = inputs.read_pretrained(checked, shapes)
  plan = method.make_plan(checked, shapes, header)
  planned = method.resolve(checked, plan, steps_per_epoch)
  try:  # What does not fit these kernels.
    tx = method.make_transformation(
      optax.identity(),
      planned['recipe'],
      planned['quantizer'],
      planned['select'],
    )
    jax.eval_shape(tx.init, shapes['params'])
  except ValueError as error:
    raise ValueError(f'config.recipe.{error}') from None
  wanted_bytes = None
  recipe = checked.recipe
  if (
    checked.fill_target
    and planned['recipe'] is not None
    and recipe.straight_through
    and recipe.sparsity is None
  ):
    assert checked.target_ratio is not None  # `validate` saw to it.
    wanted_bytes = rate_control.get_wanted_bytes(
      plan.dense_bytes, checked.target_ratio
    )
  return Job(
    config=checked,
    workdir=workdir,
    identity=config_lib.to_dict(checked) | inputs.identify(checked, dataset),
    lock=None,
    dataset=dataset,
    unreadable=threaded_reader.Unreadable(checked.data.max_unreadable),
    model=model,
    pretrained=pretrained,
    mesh=mesh,
    header=header,
    steps_per_epoch=steps_per_epoch,
    wanted_bytes=wanted_bytes,
    **planned,
  )


def build_model(
  config: config_lib.Config, dataset: datasets.Dataset
) -> tuple[nn.Module, dict[str, Any]]:
  """The network of a config, and what a file says of it."""
  fields = config_lib.to_dict(config)['model']
  arguments = {key: x for key, x in fields.items() if x is not None}
  name = arguments.pop('name')
  try:
    model = models.build(
      name, num_classes=len(dataset.class_names), arguments=arguments
    )
  except ValueError as error:
    raise inputs.with_field(error, 'config.', config_lib.Config) from error
  header = {
    'model': name,
    'model_arguments': arguments,
    'input_shape': dataset.image_shape,
    'preprocessing': normalization.preprocessing(dataset),
    'class_names': dataset.class_names,
    'max_error': config.max_error,
  }
  return model, header


def replan(job: Job, variables: Any) -> Job:
  """Plans again, from the weights that are to be compressed."""
  plan = method.make_plan(job.config, variables, job.header)
  plans = distributed.gather(planner.sparsities(plan))
  if any(other != plans[0] for other in plans):
    # They would compile other programs, and wait for each other for ever.
    raise ValueError(
      'processes plan other sparsities from the same weights, wanted hosts with'
      ' the same CPUs and versions'
    )
  return job._replace(**method.resolve(job.config, plan, job.steps_per_epoch))
