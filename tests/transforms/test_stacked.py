"""Stacked layers are treated as the layers one by one, in every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import trees
from tests.transforms import steps
from tests.transforms import table

# A gain for each layer, so that a threshold or a radius in common shows.
GAINS = (2.0, 1.0, 0.25)
SHAPE = (8, 4)
# Where the axis of layers is, and in `layer_axes`' own words.
PLACES = {
  'first': (0, 0),
  'second': (1, (1,)),
  'last': (2, -1),
  'by_path': (0, lambda path, leaf: (0,) if path == 'kernel' else ()),
  'by_expression': (1, {'kern.*': 1}),
}


def _layers(rng, shape=SHAPE):
  return [gain * steps.normal(rng, shape) for gain in GAINS]


def _run(name, kernels, gradients, **options):
  params = {'bias': jnp.ones(2)} | kernels
  grads = {'bias': jnp.ones((table.NUM_STEPS, 2))} | gradients
  return table.scan(table.make(name, table.sgd(), **options), params, grads)


def _assert_stacked(name, rng, place, **options):
  axis, layer_axes = PLACES[place]
  layers = _layers(rng)
  moves = [steps.normal(rng, (table.NUM_STEPS, *SHAPE)) for _ in layers]
  by_layer = lambda arrays: {
    f'layer{i}': {'kernel': array} for i, array in enumerate(arrays)
  }
  alone, _ = _run(name, by_layer(layers), by_layer(moves), **options)
  found, state = _run(
    name,
    {'kernel': jnp.stack(layers, axis)},
    {'kernel': jnp.stack(moves, axis + 1)},
    layer_axes=layer_axes,
    **options,
  )
  wanted = jnp.stack(
    [alone[f'layer{i}']['kernel'] for i in range(len(layers))], axis + 1
  )
  # Zeros and signs are the same; sums are, but for the order of their terms.
  np.testing.assert_array_equal(jnp.sign(found['kernel']), jnp.sign(wanted))
  np.testing.assert_allclose(found['kernel'], wanted, rtol=1e-5, atol=1e-6)
  return table.at(found, -1), state


@pytest.mark.parametrize(
  'name',
  [
    *table.TRANSFORMS,
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in table.MORE
      if name not in table.LAST_AXIS_ONLY
    ),
  ],
)
def test_stacked_layers_are_treated_as_the_layers(name, rng):
  _assert_stacked(name, rng, 'first')


@pytest.mark.slow
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('name', ['hq_ramp', 'hq_channel', 'hq_2:4'])
def test_wherever_their_axis_is(name, place, rng):
  _assert_stacked(name, rng, place)


@pytest.mark.slow
@pytest.mark.parametrize('axis', [0, 2])
def test_several_axes_of_layers_and_of_channels(axis, rng):
  # Two axes of layers around `[in, heads, features]`, whose channels are both
  # of the last, and `[heads, features, out]`, that has heads to sum over.
  recipe = transforms.Recipe(sparsity=0.75)
  for shape, channels in (((8, 2, 3), (1, 2)), ((2, 3, 8), 2)):
    grid = [[gain * steps.normal(rng, shape) for gain in GAINS] for _ in '12']
    alone = {
      f'{i}{j}': {'kernel': w}
      for i, row in enumerate(grid)
      for j, w in enumerate(row)
    }
    outer, inner = axis, axis + 1
    stacked = jnp.stack([jnp.stack(row, axis) for row in grid], axis)
    one_by_one = _update(alone, recipe, channel_axis=channels)
    together = _update(
      {'kernel': stacked},
      recipe,
      channel_axis=channels,
      layer_axes=(inner, outer),
    )
    by_layer = jnp.moveaxis(together['kernel'], (outer, inner), (0, 1))
    for path, layer in one_by_one.items():
      i, j = map(int, path)
      np.testing.assert_array_equal(by_layer[i, j], layer['kernel'])


def _update(params, recipe, **options):
  tx = transforms.hq(optax.sgd(0.0), recipe, **options)
  updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
  return optax.apply_updates(params, updates)


@pytest.mark.parametrize(
  'name', ['straight_through', pytest.param('hq', marks=pytest.mark.slow)]
)
def test_finalize_is_the_parameters_layer_by_layer(name, rng):
  found, state = _assert_stacked(name, rng, 'second')
  recipe = transforms.Recipe(sparsity=0.5, prune_steps=2, num_stages=2)
  final = transforms.finalize(state, found, recipe, layer_axes={'kernel': 1})
  codes, scale = final['kernel']
  assert codes.shape == (8, 3, 4) and scale.shape == (1, 3, 4)
  np.testing.assert_array_equal(codes * scale, found['kernel'])
  # Requantized, each layer of 32 keeps a half by itself again.
  final = transforms.finalize(
    state, found, recipe, requantize=True, layer_axes=1
  )
  assert (final['kernel'].codes != 0).sum((0, 2)).tolist() == [16] * 3
  with pytest.raises(ValueError, match='layer_axes of kernel'):
    transforms.finalize(state, found, recipe)


def test_numbers_of_a_channel_have_the_axes_of_the_kernel(rng):
  params = {'kernel': steps.normal(rng, (3, 5, 5, 2, 4))}
  for scope, shape in (
    ('layer', (3, 1, 1, 1, 1)),
    ('channel', (3, 1, 1, 1, 4)),
  ):
    tx = transforms.hq(
      optax.sgd(0.1), transforms.Recipe(sparsity=0.5, scope=scope), layer_axes=0
    )
    state = tx.init(params)
    for field in ('radii', 'scales'):
      numbers = optax.tree.get(state, field)['kernel']
      assert numbers.shape == (3, 1, 1, 1, 4), field
    magnitude = optax.tree.get(state, 'thresholds').magnitude['kernel']
    assert magnitude.shape == shape


def test_a_sparsity_by_path_is_that_of_each_layer(rng):
  params = {
    'blocks': {'kernel': jnp.stack(_layers(rng))},
    'head': {'kernel': steps.normal(rng, (8, 4))},
  }
  recipe = transforms.Recipe(sparsity={'blocks/.*': 0.75, '.*': 0.5})
  found = _update(params, recipe, layer_axes={'blocks/.*': 0})
  zeros = (found['blocks']['kernel'] == 0).sum((1, 2))
  assert zeros.tolist() == [24] * 3
  assert int((found['head']['kernel'] == 0).sum()) == 16


def test_a_sparsity_is_distributed_to_stacked_layers_as_to_the_layers(rng):
  layers, head = _layers(rng, (32, 16)), {'kernel': steps.normal(rng, (8, 4))}
  alone = {f'layer{i}': {'kernel': w} for i, w in enumerate(layers)}
  stacked = {'blocks': {'kernel': jnp.stack(layers, 1)}}
  recipe = transforms.Recipe(sparsity=0.9, distribution='erdos_renyi_kernel')
  wanted = _count_zeros(alone | {'head': head}, recipe)
  assert wanted['layer0/kernel'] != round(0.9 * 32 * 16)
  found = _count_zeros(
    stacked | {'head': head}, recipe, layer_axes={'blocks/.*': 1}
  )
  assert found == {
    'blocks/kernel': 3 * wanted['layer0/kernel'],
    'head/kernel': wanted['head/kernel'],
  }


def _count_zeros(params, recipe, **options):
  """Zeros by path: in training, and as `finalize` rounds a fresh state."""
  found = trees.flatten(_update(params, recipe, **options))
  zeros = {path: int((w == 0).sum()) for path, w in found.items()}
  state = transforms.hq(optax.sgd(0.0), recipe, **options).init(params)
  final = transforms.flatten_quantized(
    transforms.finalize(state, params, recipe, **options)
  )
  rounded = {path: int((x.codes == 0).sum()) for path, x in final.items()}
  assert rounded == zeros
  return zeros


@pytest.mark.parametrize('name', table.LAST_AXIS_ONLY)
def test_a_quantizer_that_knows_no_layers_refuses_them(name, rng):
  tx = table.make(name, table.sgd(), layer_axes=0)
  with pytest.raises(ValueError, match='layer_axes of kernel'):
    tx.init({'kernel': jnp.stack(_layers(rng))})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'layer_axes': 3}, 'layer_axes of a/kernel is 3, wanted one of its 3'),
    ({'layer_axes': (0, -4)}, 'layer_axes of a/kernel'),
    ({'layer_axes': {'b/.*': 0}}, "'b/.\\*', which matches no leaf"),
    ({'layer_axes': (0, 1)}, 'one axis or more, and one of the 1 left'),
    ({'channel_axis': (0, 1, 2)}, 'channel_axis of a/kernel'),
    ({'channel_axis': ()}, 'channel_axis of a/kernel'),
    ({'layer_axes': 0, 'channel_axis': 2}, 'channel_axis of a/kernel'),
  ],
)
@table.every_transform
def test_axes_that_a_kernel_has_not(name, options, message):
  params = {'a': {'kernel': jnp.ones((2, 3, 4))}}
  with pytest.raises(ValueError, match=message):
    table.make(name, table.sgd(), **options).init(params)


def test_describe_shows_axes_and_warns_of_what_looks_stacked():
  kernel = lambda *shape: {'kernel': jnp.ones(shape)}
  params = {
    'attention': {'query': kernel(8, 2, 4), 'out': kernel(2, 4, 8)},
    'blocks': kernel(3, 8, 4) | {'bias': jnp.ones((3, 4))},
    'conv': kernel(3, 3, 8, 4),
    'head': kernel(8, 4),
  }
  plain = transforms.describe(params)
  assert 'attention/query/kernel' in plain
  assert 'output channels on axes 1, 2' in plain
  assert [line.split()[1] for line in plain.splitlines() if 'warn' in line] == [
    'blocks/kernel'
  ]
  said = transforms.describe(params, layer_axes={'blocks/.*': 0})
  assert 'warning' not in said
  assert 'output channels on axis 2, layers on axis 0' in said


def test_an_expression_comes_first_in_the_order_given():
  params = {'a': {'kernel': jnp.ones((2, 3, 4))}}
  axes = trees.find_axes(params, layer_axes={'a/.*': 0, '.*': 1})
  assert axes['a']['kernel'] == trees.Axes((2,), (0,))
