"""Which phase an epoch of a stage belongs to, and what decays in a stage."""

import jax
import jax.numpy as jnp
import optax
import pytest

from hq_jax.compression import planner
from hq_jax.core import trees
from hq_jax.training import stages
from tests import setups
from tests.transforms import steps


def _make_stage(*phases):
  return stages.Stage(
    name='compress',
    plan=planner.Plan({}, 1, 1, 1),
    tx=optax.identity(),
    schedule=lambda step: step,
    first_epoch=7,
    phases=phases,
    seed=1,
  )


@pytest.mark.parametrize(
  ('phases', 'wanted'),
  [
    ((('prune', 2), ('ternary', 3)), 'prune prune ternary ternary ternary'),
    ((('prune', 0), ('ternary', 2)), 'ternary ternary'),
    ((('prune', 1), ('ternary', 0)), 'prune'),
    ((('dense', 1),), 'dense'),
  ],
)
def test_epochs_belong_to_phases_in_turn(phases, wanted):
  stage = _make_stage(*phases)
  names = wanted.split()
  assert stage.num_epochs == len(names)
  # Counted from 1, whatever came before the stage.
  found = [stage.get_phase(epoch) for epoch in range(1, len(names) + 1)]
  assert found == names


def test_a_stage_without_epochs_has_a_phase_all_the_same():
  stage = _make_stage(('dense', 0))
  assert stage.num_epochs == 0
  assert stage.get_phase(1) == 'dense'


def _train(stage, params, grads):
  """The kernels after some steps at the same gradients."""
  state, update = stage.tx.init(params), jax.jit(stage.tx.update)
  for _ in range(5):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return trees.flatten_selected(params)


_TWN = {'quantizer.name': 'twn', 'recipe.sparsity': None, 'prune.epochs': 0}


@pytest.mark.parametrize(
  ('fields', 'kept'),
  [
    ({}, {'dense1/kernel'}),
    ({'recipe.project': False}, set()),
    (_TWN, set()),
  ],
  ids=['sphere', 'no sphere', 'baseline'],
)
def test_kernels_decay_where_they_are_on_no_sphere(
  data_dir, tmp_path, rng, fields, kept
):
  params = {
    'dense1': {'kernel': steps.normal(rng, (64, 8)), 'bias': jnp.zeros(8)},
    'head': {'kernel': steps.normal(rng, (8, 10)), 'bias': jnp.zeros(10)},
  }
  grads = jax.tree.map(lambda p: steps.normal(rng, p.shape), params)

  def train(decay):
    more = {'recipe.sparsity': 0.5, 'optimizer.weight_decay': decay} | fields
    config = setups.get_config(data_dir, **setups.PERCEPTRON | more)
    setup = setups.prepare(config, tmp_path / f'{decay}')
    layers = dict(setup.plan.layers)
    if fields != _TWN:  # One that stays dense.
      layers['head/kernel'] = layers['head/kernel']._replace(encoding='int8')
    plan = setup.plan._replace(layers=layers)
    dense = stages.make_dense_stage(setup)
    compress = stages.make_compress_stage(setup, plan)
    return [_train(stage, params, grads) for stage in (dense, compress)]

  same = [
    {path for path in first if (first[path] == second[path]).all()}
    for first, second in zip(train(0.0), train(10.0), strict=True)
  ]
  assert same == [set(), kept]
