"""From a config to a plan, from a plan to a recipe, and what trains by it."""

import re

import jax
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax.compression import method
from hq_jax.compression import planner
from hq_jax.core import trees
from tests import jobs

_HEADER = {
  'model': 'small_resnet',
  'model_arguments': {'widths': [16, 32, 64], 'num_blocks': [1, 1, 1]},
  'input_shape': (8, 8, 1),
  'preprocessing': {},
  'class_names': tuple('0123456789'),
}


def _get_config(**fields):
  return config_lib.validate(jobs.get_config('/data', **fields))


@pytest.fixture(scope='module')
def shapes():
  model = models.build(
    'small_resnet', num_classes=10, arguments=_HEADER['model_arguments']
  )
  return jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
  )


def _resolve(config, shapes):
  plan = method.make_plan(config, shapes, _HEADER)
  return method.resolve(config, plan, steps_per_epoch=20)


def test_a_given_sparsity_is_that_of_every_kernel(shapes):
  found = _resolve(_get_config(**{'recipe.sparsity': 0.8}), shapes)
  kernels = trees.flatten_selected(shapes['params'])
  assert planner.sparsities(found['plan']) == dict.fromkeys(kernels, 0.8)
  assert found['recipe'].sparsity == 0.8
  assert (found['quantizer'], found['int8_kernels']) == (None, ())
  assert all(found['select'](path, None) for path in kernels)
  assert not found['select']('head/bias', None)


def test_given_sparsities_are_shared_out(shapes):
  fields = {'recipe.sparsity': 0.8, 'recipe.distribution': 'erdos_renyi_kernel'}
  resolved = _resolve(_get_config(**fields), shapes)
  found = planner.sparsities(resolved['plan'])
  kernels = trees.flatten_selected(shapes['params'])
  sizes = {path: leaf.size for path, leaf in kernels.items()}
  zeros = sum(found[path] * sizes[path] for path in sizes)
  assert zeros / sum(sizes.values()) == pytest.approx(0.8)
  assert resolved['recipe'].sparsity == found and len(set(found.values())) > 3


def test_an_unknown_distribution_is_refused_beside_a_sparsity_too(shapes):
  fields = {'recipe.sparsity': 0.8, 'recipe.distribution': 'x'}
  with pytest.raises(ValueError, match=r"^config\.recipe\.distribution is 'x'"):
    method.make_plan(_get_config(**fields), shapes, _HEADER)


def test_a_ratio_out_of_reach_is_refused(shapes):
  config = _get_config(target_ratio=500.0)
  with pytest.raises(ValueError, match=r'^config\.target_ratio is 500, '):
    method.make_plan(config, shapes, _HEADER)


def test_a_target_without_ternary_kernels_is_refused(shapes):
  config = _get_config(
    **{'recipe.distribution': 'cosine_distance', 'target_ratio': 2.0}
  )
  with pytest.raises(ValueError, match=r'^config\.target_ratio is 2, which is'):
    _resolve(config, shapes)


def test_a_recipe_is_in_steps():
  config = _get_config(**{'prune.epochs': 3, 'ternary.epochs': 4})
  recipe = method.make_recipe(config, {'a': 0.5, 'b': 0.5}, 10)
  assert (recipe.prune_steps, recipe.end_step) == (30, 70)
  assert recipe.sparsity == 0.5
  assert recipe.refresh_steps == config.recipe.refresh_steps
  sparsities = {'a': 0.5, 'b': 0.75}
  recipe = method.make_recipe(config, sparsities, 10)
  assert recipe.sparsity == sparsities


def test_a_recipe_that_cannot_be_in_steps_names_both_fields():
  config = _get_config(**{'prune.epochs': 3, 'recipe.num_stages': 31})
  with pytest.raises(ValueError) as caught:
    method.make_recipe(config, {'a': 0.5}, 10)
  assert str(caught.value) == (
    'config.recipe.num_stages is 31, wanted at most prune_steps = 30, which is'
    ' config.prune.epochs times 10 batches'
  )


def test_a_scope_that_has_one_sparsity_names_its_field():
  config = _get_config(**{'recipe.scope': '2:4', 'prune.epochs': 0})
  message = 'config.recipe.sparsity is 0.6, wanted 0.5, that of scope 2:4'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    method.make_recipe(config, {'a': 0.6}, 10)


def test_what_trains_is_the_recipe_or_the_quantizer():
  params = {'a': {'kernel': np.ones((8, 2), np.float32)}}
  recipe = method.make_recipe(_get_config(), {'a/kernel': 0.5}, 10)

  def init(recipe, quantizer):
    tx = method.make_transformation(
      optax.sgd(0.1), recipe, quantizer, trees.kernels
    )
    return jax.eval_shape(tx.init, params)

  ours, other = init(recipe, None), init(None, baselines.binary())
  assert optax.tree.get(ours, 'thresholds') is not None
  assert optax.tree.get(ours, 'binary_scales') is None
  assert optax.tree.get(other, 'thresholds') is None
  assert optax.tree.get(other, 'binary_scales') is not None
