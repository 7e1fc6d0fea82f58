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
from hq_jax import deploy
from hq_jax import models
from hq_jax import optimizers
from hq_jax import planner
from hq_jax import sharding
from hq_jax import ternary
from hq_jax import transforms
from hq_jax import trees
from hq_jax import workdir as workdir_lib
from hq_jax.data import datasets
from hq_jax.data import normalization


class Job(NamedTuple):
  """A run that was checked and can begin.

  Attributes:
    config: validated.
    workdir: this run's own folder.
    lock: held while the run lasts.
    dataset: opened.
    model: the Flax module.
    mesh: all devices.
    recipe: in steps, with the sparsity that was planned.
    header: what `deploy` writes into the file's header.
    dense_bytes: float32 bytes of all parameters and statistics.
    predicted_bytes: of the file, an upper bound.
    steps_per_epoch: the number of batches nearest to the training set's size.
  """

  config: config_lib.Config
  workdir: str
  lock: IO[str]
  dataset: datasets.Dataset
  model: nn.Module
  mesh: jax.sharding.Mesh
  recipe: transforms.Recipe
  header: dict[str, Any]
  dense_bytes: int
  predicted_bytes: int
  steps_per_epoch: int


def prepare(config: Mapping[str, Any], workdir: str) -> Job:
  """Does all that can be refused, before anything compiles.

  Args:
    config: a `ConfigDict` or nested dictionaries.
    workdir: the run's folder.

  Returns:
    A job for `train.run`.

  Raises:
    ValueError: with the field and its value.
  """
  if not workdir:
    raise ValueError("workdir is '', wanted a folder: --workdir=DIR")
  checked = config_lib.validate(config)
  mesh = sharding.make_mesh()
  sharding.check_batch_size(checked.batch_size, mesh)
  optimizers.make_optimizer(checked.optimizer, lambda step: 0.0)
  dataset = datasets.load(checked.data.name, checked.data.data_dir)
  if checked.batch_size > len(dataset.train):
    raise ValueError(
      f'config.batch_size is {checked.batch_size}, wanted at most the'
      f' {len(dataset.train)} training images'
    )
  least_side = min(dataset.image_shape[:2])
  if checked.data.max_shift >= least_side:
    raise ValueError(
      f'config.data.max_shift is {checked.data.max_shift}, wanted 0 to'
      f' {least_side - 1} for images of {dataset.image_shape}'
    )
  steps_per_epoch = round(len(dataset.train) / checked.batch_size)
  arguments = config_lib.to_dict(checked)['model']
  name = arguments.pop('name')
  model = models.build(
    name, num_classes=len(dataset.class_names), arguments=arguments
  )
  header = {
    'model': name,
    'model_arguments': arguments,
    'input_shape': dataset.image_shape,
    'preprocessing': normalization.preprocessing(dataset),
    'class_names': dataset.class_names,
  }
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, *dataset.image_shape))
  )
  plan = make_plan(checked, shapes, header)
  recipe = make_recipe(checked, plan.sparsity, steps_per_epoch)
  try:  # What does not fit these kernels.
    tx = transforms.hq(optax.identity(), recipe)
    jax.eval_shape(tx.init, shapes['params'])
  except ValueError as error:
    raise ValueError(f'config.recipe.{error}') from None
  model_path = os.path.join(workdir, workdir_lib.MODEL)
  if os.path.exists(model_path):
    artifact_lib.read(model_path)  # Refuses a damaged one.
  lock = workdir_lib.claim(workdir, config_lib.to_dict(checked))
  return Job(
    config=checked,
    workdir=workdir,
    lock=lock,
    dataset=dataset,
    model=model,
    mesh=mesh,
    recipe=recipe,
    header=header,
    dense_bytes=plan.dense_bytes,
    predicted_bytes=plan.predicted_bytes,
    steps_per_epoch=steps_per_epoch,
  )


def make_plan(
  config: config_lib.Config, shapes: Any, header: Mapping[str, Any]
) -> planner.Plan:
  """Finds the sparsity: the config's own, or what its target ratio takes.

  Args:
    config: validated.
    shapes: the model's variables, as shapes and types.
    header: of the file.

  Returns:
    A plan.

  Raises:
    ValueError: where the ratio cannot be reached.
  """
  dense_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
  kernels = trees.flatten_selected(shapes['params'])
  sizes = {path: leaf.size for path, leaf in kernels.items()}
  # A file of this very layout with random codes, half of them zero. Its other
  # values differ more in size than those of a trained network, so that they
  # compress less and the file that results is no larger.
  rng = np.random.default_rng(0)
  draw = lambda leaf: np.exp2(2 * rng.standard_normal(leaf.shape)).astype('f4')
  variables = jax.tree.map(draw, shapes)
  codes = {}
  for path, leaf in kernels.items():
    values = np.resize(np.array([0, 1, 0, -1], np.int8), leaf.size)
    values = rng.permutation(values).reshape(leaf.shape)
    scale = np.ones(leaf.shape[-1:], np.float32)
    codes[path] = ternary.TernaryTensor(values, scale)
  probe = artifact_lib.dumps(deploy.make_artifact(variables, codes, **header))
  fixed_bytes = len(probe) - int(
    sum(
      planner.entropy_bytes(t.codes.size, int(np.count_nonzero(t.codes)))
      for t in codes.values()
    )
  )
  sparsity = config.recipe.sparsity
  if sparsity is not None:
    predicted = planner.predict_bytes(sizes, fixed_bytes, sparsity)
    return planner.Plan(sparsity, predicted, dense_bytes)
  assert config.target_ratio is not None  # `validate` saw to it.
  try:
    return planner.plan_uniform(
      sizes,
      fixed_bytes=fixed_bytes,
      dense_bytes=dense_bytes,
      target_ratio=config.target_ratio,
    )
  except ValueError as error:
    raise ValueError(f'config.{error}') from None


def make_recipe(
  config: config_lib.Config, sparsity: float, steps_per_epoch: int
) -> transforms.Recipe:
  """The recipe of a config, in steps.

  Args:
    config: validated.
    sparsity: of every kernel at the end.
    steps_per_epoch: batches in an epoch.

  Returns:
    A recipe.

  Raises:
    ValueError: with the field's full name.
  """
  fields = config_lib.to_dict(config)['recipe'] | {
    'sparsity': sparsity,
    'prune_steps': config.prune.epochs * steps_per_epoch,
    'end_step': (config.prune.epochs + config.ternary.epochs) * steps_per_epoch,
  }
  try:
    return transforms.Recipe(**fields)
  except ValueError as error:
    raise ValueError(f'config.recipe.{error}') from None
