"""Layers as each framework stacks them."""

import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import trees
from tests.transforms import steps

NUM_LAYERS, WIDTH = 3, 8
META = {nn.PARTITION_NAME: 'layers'}
X = jnp.ones((2, WIDTH))


class Block(nn.Module):
  """A dense layer that says what its axes are."""

  @nn.compact
  def __call__(self, x, _=None):
    init = nn.with_logical_partitioning(
      nn.initializers.lecun_normal(), ('in', 'out')
    )
    return nn.relu(nn.Dense(WIDTH, kernel_init=init, name='dense')(x)), None


class Heads(nn.Module):
  """Attention, of which a whole stack is made too."""

  @nn.compact
  def __call__(self, x, _=None):
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None,) * 3)
    kernel = lambda: nn.DenseGeneral((2, 4), kernel_init=init, name='query')
    heads = kernel()(x)
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None,) * 3)
    out = nn.DenseGeneral(WIDTH, (-2, -1), kernel_init=init, name='out')
    return x + out(heads), None


class Unboxed(nn.Module):
  """A dense layer without any metadata."""

  @nn.compact
  def __call__(self, x, _=None):
    return nn.Dense(WIDTH, name='dense')(x), None


def _linen(lift, block, **options):
  lifted = lift(
    block,
    variable_axes={'params': 0},
    split_rngs={'params': True},
    metadata_params=META,
    **options,
  )
  variables = lifted(name='blocks').init(jax.random.key(0), X)['params']
  return {'blocks': variables}


def _boxed(tree):
  return nn.meta.unbox(tree), transforms.flax_layer_axes(tree)


def _linen_scan():
  return _boxed(_linen(nn.scan, Block, length=NUM_LAYERS))


def _linen_scan_on_axis_1():
  lifted = nn.scan(
    Block,
    variable_axes={'params': 1},
    split_rngs={'params': True},
    metadata_params=META,
    length=NUM_LAYERS,
  )
  return _boxed(lifted(name='blocks').init(jax.random.key(0), X)['params'])


def _linen_vmap():
  return _boxed(_linen(nn.vmap, Block, in_axes=None, axis_size=NUM_LAYERS))


def _linen_scan_of_attention():
  return _boxed(_linen(nn.scan, Heads, length=NUM_LAYERS))


def _linen_scan_without_boxes():
  params = _linen(nn.scan, Unboxed, length=NUM_LAYERS)
  assert 'warning: blocks/dense/kernel' in transforms.describe(params)
  return params, {'blocks/.*': 0}


def _linen_shapes():
  """As before any weight is made, which is what a planner sees."""
  boxed = jax.eval_shape(lambda: _linen(nn.scan, Block, length=NUM_LAYERS))
  params, _ = _linen_scan()
  return params, transforms.flax_layer_axes(boxed)


def _nnx_vmap():
  @nnx.split_rngs(splits=NUM_LAYERS)
  @nnx.vmap(
    in_axes=(0,),
    out_axes=0,
    transform_metadata={nnx.PARTITION_NAME: 'layers'},
  )
  def make(rngs):
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ('in', 'out'))
    return nnx.Linear(WIDTH, WIDTH, kernel_init=init, rngs=rngs)

  with jax.set_mesh(jax.make_mesh((1, 1, 1), ('layers', 'in', 'out'))):
    state = nnx.state({'blocks': make(nnx.Rngs(0))}, nnx.Param)
  return state, transforms.flax_layer_axes(state)


def _haiku():
  def net(x):
    stack = hk.experimental.layer_stack(NUM_LAYERS)
    return stack(lambda x: hk.Linear(WIDTH, name='dense')(x))(x)

  params = hk.transform(net).init(jax.random.key(0), X)
  (path,) = (p for p in trees.flatten(params) if p.endswith('/w'))
  return params, {path: 0}


def _equinox():
  keys = jax.random.split(jax.random.key(0), NUM_LAYERS)
  make = lambda key: eqx.nn.Linear(WIDTH, WIDTH, key=key)
  model = {'blocks': eqx.filter_vmap(make)(keys)}
  return eqx.filter(model, eqx.is_inexact_array), {'blocks/.*': 0}


SLOW = (
  _linen_scan,
  _linen_scan_on_axis_1,
  _linen_vmap,
  _linen_scan_without_boxes,
  _linen_shapes,
  _nnx_vmap,
  _haiku,
)


@pytest.mark.parametrize(
  'make',
  [
    _linen_scan_of_attention,
    _equinox,
    *(pytest.param(make, marks=pytest.mark.slow) for make in SLOW),
  ],
)
def test_each_layer_has_its_own_threshold_and_radii(make):
  params, layer_axes = make()
  # A gain for each layer, which one threshold for all would show.
  kernels = {
    path: axes
    for path, axes in trees.flatten(
      trees.find_axes(params, layer_axes=layer_axes)
    ).items()
    if not isinstance(axes, optax.MaskedNode)
  }
  assert kernels
  gains = jnp.array([4.0, 1.0, 0.1])

  def scale(path, leaf):
    axes = kernels.get(trees.path_string(path))
    if axes is None:
      return leaf
    (layer,) = axes.layer
    assert leaf.shape[layer] == NUM_LAYERS
    shape = [-1 if axis == layer else 1 for axis in range(leaf.ndim)]
    return leaf * gains.reshape(shape)

  params = jax.tree_util.tree_map_with_path(scale, params)
  tx = transforms.hq(
    optax.sgd(0.01),
    transforms.Recipe(sparsity=0.75, refresh_steps=1),
    layer_axes=layer_axes,
  )
  step, state, found = steps.make_step(tx), tx.init(params), params
  for _ in range(2):
    found, state = step(found, state, params)
  after = trees.flatten(found)
  for path, axes in kernels.items():
    layers = np.moveaxis(np.asarray(after[path]), axes.layer[0], 0)
    before = np.asarray(trees.flatten(params)[path])
    before = np.moveaxis(before, axes.layer[0], 0)
    kept = (layers != 0).reshape(NUM_LAYERS, -1).sum(1)
    assert kept.tolist() == [WIDTH * WIDTH // 4] * NUM_LAYERS
    channels = [axis - (axis > axes.layer[0]) for axis in axes.channel]
    for w, first in zip(layers, before, strict=True):
      summed = tuple(i for i in range(w.ndim) if i not in channels)
      norms = np.sqrt((w**2).sum(summed)).ravel()
      wanted = np.sqrt((first**2).sum(summed)).ravel()
      alive = norms > 0
      assert alive.any()
      np.testing.assert_allclose(norms[alive], wanted[alive], rtol=1e-3)
  final = transforms.finalize(
    state,
    found,
    transforms.Recipe(sparsity=0.75, refresh_steps=1),
    layer_axes=layer_axes,
  )
  tensors = transforms.flatten_quantized(final)
  assert set(tensors) == set(kernels)
  for path, (codes, scale_) in tensors.items():
    np.testing.assert_array_equal(codes * scale_, after[path])


def test_a_name_that_no_axis_has_is_refused():
  params = _linen(nn.scan, Block, length=NUM_LAYERS)
  with pytest.raises(ValueError, match="name is 'stages', which no"):
    transforms.flax_layer_axes(params, 'stages')
  with pytest.raises(ValueError, match='which no variable has'):
    transforms.flax_layer_axes(nn.meta.unbox(params))
