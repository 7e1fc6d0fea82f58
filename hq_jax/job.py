"""What a config and a workdir amount to, checked before anything compiles."""

from collections.abc import Mapping
import dataclasses
import functools
import os
from typing import Any, IO, NamedTuple

from flax import linen as nn
import jax
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import deploy
from hq_jax import distributed
from hq_jax import distributions
from hq_jax import inputs
from hq_jax import models
from hq_jax import optimizers
from hq_jax import planner
from hq_jax import quantizers
from hq_jax import rivals
from hq_jax import steering
from hq_jax import train_state
from hq_jax import transforms
from hq_jax import trees
from hq_jax import workdir as workdir_lib
from hq_jax.data import datasets
from hq_jax.data import normalization
from hq_jax.data import unreadable as unreadable_lib

_LOCK_SECONDS = 120.0
_MOST_ROUNDS = 4  # until a file that was steered too far fits its target


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
    header: keyword arguments of `deploy.make_artifact`: what the file says, and
      how exactly.
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
  unreadable: unreadable_lib.Unreadable
  model: nn.Module
  pretrained: dict[str, Any] | None
  mesh: jax.sharding.Mesh
  header: dict[str, Any]
  steps_per_epoch: int
  wanted_bytes: int | None
  plan: planner.Plan
  recipe: transforms.Recipe | None
  quantizer: quantizers.Quantizer | None
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
  job = distributed.together(lambda: _check(checked, workdir, mesh, dataset))
  claim = _claim if distributed.is_first() else workdir_lib.join
  lock = distributed.first_then_others(lambda: claim(workdir, job.identity))
  return job._replace(lock=lock)


def _claim(workdir: str, identity: Mapping[str, Any]) -> IO[str]:
  """The lock of the folder, whose model, if it has one, is whole."""
  # A process that was killed on another host may be there for a while.
  wait_seconds = 0.0 if distributed.is_alone() else _LOCK_SECONDS
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
  plan = make_plan(checked, shapes, header)
  planned = _resolve(checked, plan, steps_per_epoch)
  try:  # What does not fit these kernels.
    tx = make_transformation(
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
    wanted_bytes = steering.get_wanted_bytes(
      plan.dense_bytes, checked.target_ratio
    )
  return Job(
    config=checked,
    workdir=workdir,
    identity=config_lib.to_dict(checked) | inputs.identify(checked, dataset),
    lock=None,
    dataset=dataset,
    unreadable=unreadable_lib.Unreadable(checked.data.max_unreadable),
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
  """The network of a config, and what a file says of it.

  Args:
    config: validated.
    dataset: opened.

  Returns:
    The Flax module, and the header; see `Job`.

  Raises:
    ValueError: where the network is not known or takes no such arguments.
  """
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
  """Plans again, from the weights that are to be compressed.

  Args:
    job: of `prepare`.
    variables: of the dense network at the end of its training.

  Returns:
    The job with the plan for these weights.

  Raises:
    ValueError: where a weight is not finite.
  """
  plan = make_plan(job.config, variables, job.header)
  plans = distributed.gather(planner.sparsities(plan))
  if any(other != plans[0] for other in plans):
    # They would compile other programs, and wait for each other for ever.
    raise ValueError(
      'processes plan other sparsities from the same weights, wanted hosts with'
      ' the same CPUs and versions'
    )
  return job._replace(**_resolve(job.config, plan, job.steps_per_epoch))


def make_plan(
  config: config_lib.Config, variables: Any, header: Mapping[str, Any]
) -> planner.Plan:
  """Finds the sparsities: the config's own, or what its target ratio takes.

  Args:
    config: validated.
    variables: the model's, as arrays, or as shapes and types.
    header: see `Job`.

  Returns:
    A plan.

  Raises:
    ValueError: where the ratio cannot be reached, or the distribution is not
      known.
  """
  make_artifact = functools.partial(deploy.make_artifact, **header)
  quantizer = rivals.make_quantizer(config)
  if quantizer is not None:
    return rivals.predict(
      config.quantizer.name, quantizer, variables, make_artifact
    )
  recipe = config.recipe
  if recipe.distribution not in planner.ALLOCATIONS:
    raise ValueError(
      f'config.recipe.distribution is {recipe.distribution!r}, wanted one of:'
      f' {", ".join(planner.ALLOCATIONS)}'
    )
  if recipe.sparsity is not None:
    sparsity: Any = recipe.sparsity
    if recipe.distribution in distributions.DISTRIBUTIONS:
      kernels = trees.flatten_selected(variables['params'])
      sparsity = distributions.DISTRIBUTIONS[recipe.distribution](
        {path: leaf.shape for path, leaf in kernels.items()}, sparsity
      )
    return planner.predict(variables, sparsity, make_artifact=make_artifact)
  assert config.target_ratio is not None  # `validate` saw to it.
  try:
    return planner.plan(
      variables,
      config.target_ratio,
      allocation=recipe.distribution,
      make_artifact=make_artifact,
    )
  except ValueError as error:
    raise inputs.with_field(error, 'config.', config_lib.Config) from error


def ship(
  job: Job, state: train_state.TrainState, *, is_last: bool = False
) -> artifact_lib.Artifact:
  """What the file of a state holds.

  Args:
    job: with the plan that the state is trained by.
    state: of the compression stage.
    is_last: whether training has ended. The file then has at most the bytes of
      its target: where it was steered a little beyond, the smallest weights
      become zero.

  Returns:
    An artifact, on the host.
  """
  if job.quantizer is not None:
    return deploy.artifact_of_quantizer(state, job.quantizer, **job.header)
  assert job.recipe is not None  # Where there is no quantizer.
  make = lambda recipe, rerank: deploy.artifact_of_state(
    state,
    recipe,
    int8_kernels=job.int8_kernels,
    rerank=rerank,
    **job.header,
  )
  shipped = make(job.recipe, False)
  if not is_last or job.wanted_bytes is None:
    return shipped
  wanted = job.wanted_bytes
  assert job.config.target_ratio is not None
  most = job.plan.dense_bytes / job.config.target_ratio
  for _ in range(_MOST_ROUNDS):
    data = artifact_lib.dumps(shipped)
    if len(data) <= most:
      break
    factor = steering.find_kept_factor(
      shipped, data, planner.sparsities(job.plan), wanted
    )
    factor = distributed.gather(factor)[0]  # One for all, to the last bit.
    wanted -= job.plan.dense_bytes // 500  # Less, if it has to come again.
    shipped = make(_scale_kept(job.recipe, factor), True)
  return shipped


def _scale_kept(recipe: transforms.Recipe, factor: float) -> transforms.Recipe:
  scale = lambda value: max(0.0, 1 - (1 - value) * factor)
  sparsity = recipe.sparsity
  if isinstance(sparsity, Mapping):
    return dataclasses.replace(
      recipe, sparsity={path: scale(s) for path, s in sparsity.items()}
    )
  return dataclasses.replace(recipe, sparsity=scale(sparsity))


def _resolve(
  config: config_lib.Config, plan: planner.Plan, steps_per_epoch: int
) -> dict[str, Any]:
  """The fields of a `Job` that follow from its plan."""
  quantizer = rivals.make_quantizer(config)
  if quantizer is not None:
    return {
      'plan': plan,
      'recipe': None,
      'quantizer': quantizer,
      'select': lambda path, leaf: path in plan.layers,
      'int8_kernels': (),
    }
  sparsities = planner.sparsities(plan)
  if not sparsities:
    raise ValueError(
      f'config.target_ratio is {config.target_ratio:g}, which is reached'
      ' without a ternary kernel, wanted a higher one'
    )
  return {
    'plan': plan,
    'recipe': make_recipe(config, sparsities, steps_per_epoch),
    'quantizer': None,
    'select': lambda path, leaf: path in sparsities,
    'int8_kernels': planner.with_encoding(plan, 'int8'),
  }


def make_transformation(
  inner: optax.GradientTransformation,
  recipe: transforms.Recipe | None,
  quantizer: quantizers.Quantizer | None,
  select: trees.Selector,
) -> optax.GradientTransformationExtraArgs:
  """What trains quantized weights: by a recipe, or by another quantizer.

  Args:
    inner: the optimizer.
    recipe: see `Job`.
    quantizer: see `Job`.
    select: the kernels.

  Returns:
    An optax transformation.
  """
  if quantizer is not None:
    return transforms.straight_through(inner, quantizer, select=select)
  assert recipe is not None  # Where there is no quantizer.
  return transforms.hq(inner, recipe, select)


def make_recipe(
  config: config_lib.Config,
  sparsities: Mapping[str, float],
  steps_per_epoch: int,
) -> transforms.Recipe:
  """The recipe of a config, in steps.

  Args:
    config: validated.
    sparsities: of the ternary kernels at the end, by path.
    steps_per_epoch: batches in an epoch.

  Returns:
    A recipe.

  Raises:
    ValueError: with the field's full name.
  """
  values = set(sparsities.values())
  fields = config_lib.to_dict(config)['recipe'] | {
    # One number where one will do: some scopes have room for no other.
    'sparsity': values.pop() if len(values) == 1 else dict(sparsities),
    'distribution': 'uniform',  # They are shared out already.
    'prune_steps': config.prune.epochs * steps_per_epoch,
    'end_step': (config.prune.epochs + config.ternary.epochs) * steps_per_epoch,
  }
  try:
    return transforms.Recipe(**fields)
  except ValueError as error:
    of_steps = ''
    if 'prune_steps' in str(error):
      of_steps = (
        f', which is config.prune.epochs times {steps_per_epoch} batches'
      )
    raise ValueError(f'config.recipe.{error}{of_steps}') from None
