"""Explicit mesh axes, and parameters that vary in `shard_map`."""

import jax
import numpy as np
import optax
import pytest

from hq_jax import transforms
from tests.transforms import steps
from tests.transforms import table

P = jax.sharding.PartitionSpec
SHAPES = {
  'conv': (3, 3, 8, 16),
  'dense': (16, 8),
  'stacked': (4, 8, 16),
  'bias': (8,),
}
# Every axis that four devices can share, each alone and two at once.
SPECS = {
  'replicated': {},
  'input': {
    'conv': P(None, None, 'data'),
    'dense': P('data'),
    'stacked': P(None, 'data'),
  },
  'output': {
    'conv': P(None, None, None, 'data'),
    'dense': P(None, 'data'),
    'stacked': P(None, None, 'data'),
    'bias': P('data'),
  },
  'layers': {'stacked': P('data')},
  'both': {
    'conv': P(None, None, 'model', 'data'),
    'dense': P('data', 'model'),
    'stacked': P('data', None, 'model'),
  },
  'one_axis_for_two': {'dense': P(('data', 'model')), 'bias': P('model')},
}


def _params(rng):
  return {
    name: {'bias' if name == 'bias' else 'kernel': steps.normal(rng, shape)}
    for name, shape in SHAPES.items()
  }


def _channel_axis(path, leaf):
  return 0 if path.startswith('dense') else -1


def _shard(params, mesh, how):
  return {
    name: jax.tree.map(
      lambda leaf, name=name: jax.device_put(
        leaf, jax.sharding.NamedSharding(mesh, SPECS[how].get(name, P()))
      ),
      layer,
    )
    for name, layer in params.items()
  }


SCOPES = ['hq_ramp', 'hq_channel', 'hq_tree', 'hq_2:4']


@pytest.mark.parametrize(
  ('name', 'how'),
  [
    (name, how)
    if (name, how) == ('straight_through', 'layers')
    else pytest.param(name, how, marks=pytest.mark.slow)
    for name in [*table.TRANSFORMS, *SCOPES]
    for how in SPECS
    if name in ('hq', 'hq_tree', 'straight_through') or how == 'both'
  ],
)
def test_explicit_axes(name, how, rng):
  # As `jax.make_mesh` makes them by default.
  mesh = jax.make_mesh((2, 2), ('data', 'model'), devices=jax.devices()[:4])
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}
  params = _params(rng)
  draw = lambda p: steps.normal(rng, (4, *p.shape))
  gradients = jax.tree.map(draw, params)
  tx = table.make(
    name,
    table.sgd(),
    channel_axis=_channel_axis,
    layer_axes={'stacked/.*': 0},
  )
  wanted, _ = table.scan(tx, params, gradients)
  with jax.set_mesh(mesh):
    sharded = _shard(params, mesh, how)
    step = jax.jit(table.make_step(tx))
    state = jax.jit(tx.init)(sharded)
    got = sharded
    for t in range(4):
      grads = _shard(table.at(gradients, t), mesh, how)
      got, state = step(got, state, grads)
    same = lambda a, b: jax.typeof(a).sharding == jax.typeof(b).sharding
    assert all(jax.tree.leaves(jax.tree.map(same, got, sharded)))
    # A carry of a scan keeps its sharding, which is a part of its type.
    jax.eval_shape(
      lambda carry: jax.lax.scan(
        lambda carry, _: (step(*carry, sharded), None), carry, length=2
      ),
      (sharded, state),
    )
  # Sums over devices are in another order: a tie may fall the other way.
  for a, b in zip(
    jax.tree.leaves(got), jax.tree.leaves(table.at(wanted, -1)), strict=True
  ):
    differs = np.abs(np.asarray(a) - np.asarray(b)) > 1e-4
    assert differs.mean() <= 0.02


def test_explicit_axes_without_jit(rng):
  mesh = jax.make_mesh((4,), ('data',), devices=jax.devices()[:4])
  tx = table.make('hq', table.sgd())
  with jax.set_mesh(mesh):
    sharding = jax.sharding.NamedSharding(mesh, P('data'))
    params = {'kernel': jax.device_put(steps.normal(rng, (8, 4)), sharding)}
    updates, _ = tx.update(params, tx.init(params), params)
  assert updates['kernel'].sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize(
  'name',
  [
    'straight_through',
    'hq',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in (*table.TRANSFORMS, *table.MORE)
      if name not in ('straight_through', 'hq')
    ),
  ],
)
def test_parameters_that_vary_in_shard_map(name, make_mesh, rng):
  # An ensemble: each device trains a network of its own.
  mesh = make_mesh(4)
  tx = table.make(name, table.sgd())
  params = {
    'bias': steps.normal(rng, (4, 8)),
    'kernel': steps.normal(rng, (4, 16, 8)),
  }
  gradients = jax.tree.map(
    lambda p: steps.normal(rng, (4, 4, *p.shape[1:])), params
  )

  def train(params, gradients):
    params, gradients = jax.tree.map(lambda x: x[0], (params, gradients))
    found, state = table.scan(tx, params, gradients)
    return jax.tree.map(lambda x: x[None], (table.at(found, -1), state))

  parallel = jax.jit(
    jax.shard_map(train, mesh=mesh, in_specs=P('d0'), out_specs=P('d0'))
  )
  found, _ = parallel(params, gradients)
  for i in range(4):
    wanted, _ = table.scan(tx, table.at(params, i), table.at(gradients, i))
    table.assert_close(table.at(found, i), table.at(wanted, -1))


def test_parameters_of_which_some_vary(make_mesh, rng):
  # Experts on the devices, and a router that is the same everywhere.
  tx = transforms.hq(
    table.sgd(),
    transforms.Recipe(sparsity=0.5, prune_steps=2, num_stages=1),
    layer_axes={'expert/.*': 0},
  )
  params = {
    'expert': {'kernel': steps.normal(rng, (8, 8, 4))},
    'router': {'kernel': steps.normal(rng, (8, 4))},
  }
  specs = {'expert': {'kernel': P('d0')}, 'router': {'kernel': P()}}

  def train(params):
    state = tx.init(params)
    for _ in range(2):
      updates, state = tx.update(params, state, params)
      params = optax.apply_updates(params, updates)
    return jax.tree.map(lambda x: x[None], params)

  parallel = jax.shard_map(
    train, mesh=make_mesh(4), in_specs=(specs,), out_specs=P('d0')
  )
  found = jax.jit(parallel)(params)
  zeros = lambda w, *axes: (w == 0).sum(axes).tolist()
  assert zeros(found['router']['kernel'], 1, 2) == [16] * 4
  assert zeros(found['expert']['kernel'], 2, 3) == [[16, 16]] * 4
