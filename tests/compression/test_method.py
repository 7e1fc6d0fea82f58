"""The library's own method: its plans, what trains by them, and its file."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.compression import method as method_lib
from hq_jax.compression import planner
from hq_jax.compression import to_artifact
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.training import train_state
from tests import setups

NETWORKS = {
  'small_resnet': {'widths': [16, 32, 64], 'num_blocks': [1, 1, 1]},
  'mlp': {'widths': [64]},
}


def make_method(name='small_resnet', **fields):
  header = {
    'model': name,
    'model_arguments': NETWORKS[name],
    'input_shape': (8, 8, 1),
    'preprocessing': {},
    'class_names': tuple('0123456789'),
  }
  config = config_lib.validate(setups.get_config('/data', **fields))
  make_artifact = functools.partial(to_artifact.make_artifact, **header)
  return method_lib.Hyperspherical(config, 10, make_artifact)


@functools.cache
def get_shapes(name='small_resnet'):
  model = models.build(name, num_classes=10, arguments=NETWORKS[name])
  return jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
  )


def draw(shapes, spread=0.0):
  """Random weights; input channels differ by `exp(spread * normal)`."""
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    values = rng.normal(size=leaf.shape).astype('f4')
    if path[-1].key == 'kernel':
      return values * np.exp(spread * rng.normal(size=(leaf.shape[-2], 1)))
    return np.abs(values)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def test_a_given_sparsity_is_that_of_every_kernel():
  method = make_method(**{'recipe.sparsity': 0.8})
  plan = method.plan(get_shapes())
  kernels = trees.flatten_selected(get_shapes()['params'])
  assert planner.sparsities(plan) == dict.fromkeys(kernels, 0.8)
  assert method.make_recipe(plan).sparsity == 0.8
  select = method_lib.select_quantized(plan)
  assert all(select(path, None) for path in kernels)
  assert not select('head/bias', None)


def test_a_given_sparsity_is_allocated():
  fields = {'recipe.sparsity': 0.8, 'recipe.distribution': 'erdos_renyi_kernel'}
  method = make_method(**fields)
  plan = method.plan(get_shapes())
  found = planner.sparsities(plan)
  kernels = trees.flatten_selected(get_shapes()['params'])
  sizes = {path: leaf.size for path, leaf in kernels.items()}
  zeros = sum(found[path] * sizes[path] for path in sizes)
  assert zeros / sum(sizes.values()) == pytest.approx(0.8)
  assert method.make_recipe(plan).sparsity == found
  assert len(set(found.values())) > 3


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'recipe.sparsity': 0.8, 'recipe.distribution': 'x'},
      "config.recipe.distribution is 'x', wanted one of",
    ),
    (
      {'recipe.distribution': 'cosine_distance', 'target_ratio': 2.0},
      'config.target_ratio is 2, which is',
    ),
  ],
)
def test_what_cannot_be_planned_is_refused(fields, message):
  with pytest.raises(ValueError, match=f'^{re.escape(message)}'):
    make_method(**fields).plan(get_shapes())


def test_weights_change_the_plan():
  fields = {'recipe.distribution': 'cosine_distance', 'target_ratio': 20.0}
  method = make_method(**fields)
  plan = method.plan(get_shapes())
  assert 'conv_stem/kernel' in planner.with_encoding(plan, 'int8')
  select = method_lib.select_quantized(plan)
  assert not select('conv_stem/kernel', None)
  assert select('stage3_block1/conv2/kernel', None)
  variables = draw(get_shapes(), spread=1.0)
  found = method.plan(variables)
  before, after = planner.sparsities(plan), planner.sparsities(found)
  assert max(abs(after[p] - before[p]) for p in before if p in after) > 0.01
  assert method.make_recipe(found).sparsity == after
  assert found.predicted_bytes <= found.dense_bytes / 20
  variables['params']['head']['kernel'][3, 2] = np.nan
  with pytest.raises(ValueError, match='head/kernel holds NaN'):
    method.plan(variables)


def _plan(sparsities):
  layers = {
    path: planner.LayerPlan('ternary', sparsity, 1, 0.1)
    for path, sparsity in sparsities.items()
  }
  return planner.Plan(layers, 1, 1, 1)


def test_a_recipe_is_in_steps():
  method = make_method(**{'prune.epochs': 3, 'ternary.epochs': 4})
  recipe = method.make_recipe(_plan({'a': 0.5, 'b': 0.5}))
  assert (recipe.prune_steps, recipe.end_step) == (30, 70)
  assert recipe.sparsity == 0.5
  assert recipe.refresh_steps == method.config.recipe.refresh_steps
  sparsities = {'a': 0.5, 'b': 0.75}
  assert method.make_recipe(_plan(sparsities)).sparsity == sparsities


@pytest.mark.parametrize(
  ('switch', 'present'),
  [
    ('tangent', 'radii thresholds'),
    ('project', 'thresholds'),
    ('prune', 'radii reinit_count thresholds'),
    ('reinit', 'radii thresholds'),
    # What is not ternary meanwhile is pruned by a part of its own.
    ('straight_through', 'prune_count radii reinit_count'),
  ],
)
def test_each_part_can_be_switched_off(switch, present):
  method = make_method('mlp', **{f'recipe.{switch}': False})
  params = get_shapes('mlp')['params']
  plan = _plan({'dense1/kernel': 0.5, 'head/kernel': 0.5})
  tx = method.transformation(plan, optax.sgd(0.1), optax.constant_schedule(0.1))
  state = jax.eval_shape(tx.init, params)
  names = ('prune_count', 'radii', 'reinit_count', 'thresholds')
  found = [name for name in names if optax.tree.get(state, name) is not None]
  assert found == present.split()
  is_ramp_ternary = switch not in ('prune', 'straight_through')
  assert method.make_recipe(plan).is_ramp_ternary == is_ramp_ternary


def _make_state(density_scale, **fields):
  """A method, and what it is given after a step with ternary weights."""
  method = make_method('mlp', **{'prune.epochs': 0, **fields})
  variables = draw(get_shapes('mlp'))
  plan = method.plan(variables)
  tx = method.transformation(plan, optax.sgd(0.0), optax.constant_schedule(0.0))

  @jax.jit
  def step(params):
    opt_state = transforms.with_density_scale(tx.init(params), density_scale)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, opt_state = tx.update(zero, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = step(variables['params'])
  stats = variables['batch_stats']
  state = train_state.TrainState(jnp.int32(1), params, stats, opt_state)
  return method, plan, state


def _get_codes(exported):
  return {
    path: tensor.codes
    for path, tensor in exported.tensors.items()
    if isinstance(tensor, qtensors.TernaryTensor)
  }


def _assert_equal(found, wanted):
  assert artifact_lib.dumps(found) == artifact_lib.dumps(wanted)


@pytest.mark.usefixtures('quick')
def test_at_the_end_the_smallest_weights_leave_until_it_fits():
  method, plan, state = _make_state(2.5, target_ratio=20.0)
  most = plan.dense_bytes / 20
  before = method.encode(plan, state)
  data = artifact_lib.dumps(before)
  assert len(data) > 1.05 * most
  exported = method.export(plan, state)
  assert 0.95 * most < len(artifact_lib.dumps(exported)) <= most
  all_codes, codes = _get_codes(before), _get_codes(exported)
  assert codes.keys() == {'params/dense1/kernel', 'params/head/kernel'}
  for path, found in codes.items():
    held = all_codes[path]
    # None changes its sign, and the smallest latents are those that went.
    np.testing.assert_array_equal(found[found != 0], held[found != 0])
    module, leaf = path.split('/')[1:]
    w = np.abs(state.opt_state.latents[module][leaf])
    size = w / np.linalg.norm(w, axis=0)
    left = (held != 0) & (found == 0)
    assert left.any() and size[left].max() <= size[found != 0].min() + 1e-6
  # Amid training, as many fewer live from the next step on.
  adapted, row = method.adapt(plan, state, before, data)
  assert optax.tree.get(adapted.opt_state, 'density_scale') == np.float32(
    row['density_scale']
  )
  assert 0.5 < row['density_scale'] < 1.2


@pytest.mark.usefixtures('quick')
def test_what_fits_is_exported_as_it_is():
  method, plan, state = _make_state(1.0, target_ratio=20.0)
  before = method.encode(plan, state)
  (sparsity,) = set(planner.sparsities(plan).values())
  for codes in _get_codes(before).values():
    assert np.mean(codes == 0) == pytest.approx(sparsity, abs=1 / codes.size)
  assert len(artifact_lib.dumps(before)) <= plan.dense_bytes / 20
  _assert_equal(method.export(plan, state), before)


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize(
  'fields', [{'recipe.sparsity': 0.8}, {'fill_target': False}]
)
def test_without_a_target_to_fill_nothing_leaves(fields):
  method, plan, state = _make_state(1.5, **fields)
  before = method.encode(plan, state)
  (sparsity,) = set(planner.sparsities(plan).values())
  for codes in _get_codes(before).values():
    zeros = 1 - (1 - sparsity) * 1.5
    assert np.mean(codes == 0) == pytest.approx(zeros, abs=1 / codes.size)
  _assert_equal(method.export(plan, state), before)
  data = artifact_lib.dumps(before)
  assert method.adapt(plan, state, before, data) == (state, {})
