"""From a config to a plan, and from a plan to a recipe: how weights shrink.

What the other quantizers have in place of a recipe is in `baselines`.
"""

from collections.abc import Mapping
import functools
from typing import Any

import optax

from hq_jax import config as config_lib
from hq_jax import transforms
from hq_jax.baselines import method as baselines
from hq_jax.compression import planner
from hq_jax.compression import to_artifact
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees
from hq_jax.training import inputs


def make_plan(
  config: config_lib.Config, variables: Any, header: Mapping[str, Any]
) -> planner.Plan:
  """Finds the sparsities: the config's own, or what its target ratio takes."""
  make_artifact = functools.partial(to_artifact.make_artifact, **header)
  quantizer = baselines.make_quantizer(config)
  if quantizer is not None:
    return baselines.predict(
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
    if recipe.distribution in sparsity_distributions.DISTRIBUTIONS:
      kernels = trees.flatten_selected(variables['params'])
      sparsity = sparsity_distributions.DISTRIBUTIONS[recipe.distribution](
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


def resolve(
  config: config_lib.Config, plan: planner.Plan, steps_per_epoch: int
) -> dict[str, Any]:
  """What follows from a plan."""
  quantizer = baselines.make_quantizer(config)
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


def make_recipe(
  config: config_lib.Config,
  sparsities: Mapping[str, float],
  steps_per_epoch: int,
) -> transforms.Recipe:
  """The recipe of a config, in steps."""
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


def make_transformation(
  inner: optax.GradientTransformation,
  recipe: transforms.Recipe | None,
  quantizer: transforms.Quantizer | None,
  select: trees.Selector,
) -> optax.GradientTransformationExtraArgs:
  """What trains quantized weights: by a recipe, or by another quantizer."""
  if quantizer is not None:
    return transforms.straight_through(inner, quantizer, select=select)
  assert recipe is not None  # Where there is no quantizer.
  return transforms.hq(inner, recipe, select)
