"""The same training in every framework: dense, pruned, then ternary."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import chex
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
from hq_jax.core import qtensors
from hq_jax.core import trees
from tests.transforms import steps

# Dense in updates 1 to 20, pruned in 21 to 60, ternary in 61 to 120.
RECIPE = transforms.Recipe(
  prune_gradients='masked',
  sparsity=0.7,
  begin_step=20,
  prune_steps=40,
  num_stages=2,
  refresh_steps=8,
  end_step=120,
)
BATCH_SIZE = 120


class Run(NamedTuple):
  """What a training leaves behind."""

  start: chex.ArrayTree
  dense: chex.ArrayTree  # The last ones before pruning begins.
  pruned: chex.ArrayTree  # The last ones before they are ternary.
  params: chex.ArrayTree
  opt_state: Any
  losses: np.ndarray


def _train(
  step: Callable[..., tuple[Any, jax.Array]],
  carry: Any,
  digits: Any,
  read: Callable[[Any], tuple[chex.ArrayTree, Any]],
) -> Run:
  """Runs a step to the recipe's end; `read` gives parameters and state."""
  images = digits[0][0].reshape(-1, BATCH_SIZE, 8, 8, 1)
  labels = digits[0][1].reshape(-1, BATCH_SIZE)
  found, losses = [jax.device_get(read(carry)[0])], []
  for i in range(RECIPE.end_step):
    carry, loss = step(carry, images[i % len(images)], labels[i % len(images)])
    losses.append(float(loss))
    if i + 1 in (RECIPE.begin_step, RECIPE.ternary_begin_step):
      found.append(jax.device_get(read(carry)[0]))
  return Run(*found, *read(carry), np.array(losses))


def _optimizer(**kwargs):
  return transforms.hq(optax.adam(1e-2), RECIPE, **kwargs)


def _cross_entropy(logits, labels):
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean()


def _make_step(tx, loss_fn):
  """The plain optax step, for what keeps its parameters in a tree."""

  @jax.jit
  def step(carry, images, labels):
    params, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  return step


def _train_tree(params, apply, digits):
  tx = _optimizer()
  loss_fn = lambda params, x, y: _cross_entropy(apply(params, x), y)
  step = _make_step(tx, loss_fn)
  return _train(step, (params, tx.init(params)), digits, lambda carry: carry)


def _channels(kernel, axis):
  """The kernel as a matrix, a row for each output channel."""
  kernel = np.asarray(kernel)
  return np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)


def _num_magnitudes(row):
  return len(np.unique(np.abs(row[row != 0])))


def _check(run: Run, axes: dict[str, int]) -> None:
  """All that is promised, for kernels with these channel axes."""
  # Ten steps see each image once, so that their means can be compared.
  first, ternary, last = (run.losses[i:][:10].mean() for i in (0, 61, 110))
  assert last < 0.5 * first
  assert last < ternary

  start, dense, pruned, params = map(trees.flatten, run[:4])
  wanted_zeros = {
    path: params[path].size - round(0.3 * params[path].size) for path in axes
  }
  for path in params:
    assert params[path].dtype == jnp.float32
    if path in axes:
      _check_phases(dense[path], pruned[path], wanted_zeros[path], axes[path])
      _check_ternary(params[path], start[path], wanted_zeros[path], axes[path])
    else:
      # Biases and norms: the optimizer's own, which leaves no weight alone.
      assert (np.asarray(params[path]) != start[path]).all(), path
      assert (np.asarray(params[path]) != 0).all(), path

  _check_latents(run, axes)
  _check_final(run, axes)
  _check_description(run, axes)


def _check_phases(dense, pruned, wanted_zeros, axis):
  assert (np.asarray(dense) != 0).all()
  assert (np.asarray(pruned) == 0).sum() == wanted_zeros
  assert max(map(_num_magnitudes, _channels(pruned, axis))) > 1


def _check_ternary(kernel, start, wanted_zeros, axis):
  assert (np.asarray(kernel) == 0).sum() == wanted_zeros
  rows = _channels(kernel, axis)
  assert all(_num_magnitudes(row) <= 1 for row in rows)
  # That is so along this axis only: each channel has a radius of its own.
  for other in range(kernel.ndim):
    if other != axis and kernel.shape[other] > 1:
      slices = _channels(kernel, other)
      assert max(map(_num_magnitudes, slices)) > 1, other
  # And the radius is still that of the start, to the 11 bits of a scale.
  alive = (rows != 0).any(1)
  np.testing.assert_allclose(
    np.linalg.norm(rows[alive], axis=1),
    np.linalg.norm(_channels(start, axis)[alive], axis=1),
    rtol=1e-3,
  )


def _check_latents(run, axes):
  latents = transforms.latents(run.opt_state, run.params)
  chex.assert_trees_all_equal_structs(latents, run.params)
  params = trees.flatten(run.params)
  for path, latent in trees.flatten(latents).items():
    assert latent.dtype == jnp.float32
    assert latent.shape == params[path].shape
    if path in axes:
      # Pruned weights grow again in the ternary phase.
      assert (latent != 0).mean() > 0.95, path
      assert len(np.unique(np.abs(latent))) > latent.size // 2
    else:
      np.testing.assert_array_equal(latent, params[path])


def _check_final(run, axes):
  final = transforms.finalize(run.opt_state, run.params, RECIPE)
  is_quantized = lambda node: isinstance(node, qtensors.TernaryTensor)
  found = trees.flatten(final, is_leaf=is_quantized)
  params = trees.flatten(run.params)
  assert list(found) == list(params)
  assert {path for path in found if is_quantized(found[path])} == set(axes)
  for path, leaf in found.items():
    if path not in axes:
      np.testing.assert_array_equal(leaf, params[path])
      continue
    assert leaf.codes.dtype == jnp.int8
    assert leaf.codes.shape == params[path].shape
    assert set(np.unique(leaf.codes)) == {-1, 0, 1}
    assert leaf.scale.size == params[path].shape[axes[path]]
    value = np.asarray(leaf.codes, np.float32) * np.asarray(leaf.scale)
    np.testing.assert_array_equal(
      value.view(np.int32), np.asarray(params[path]).view(np.int32)
    )


def _check_description(run, axes):
  header, *rows = transforms.describe(run.params).splitlines()
  assert header.split() == ['path', 'shape', 'dtype', 'selected', 'why']
  assert [row.split()[0] for row in rows] == list(trees.flatten(run.params))
  for row in rows:
    path = row.split()[0]
    if path in axes:
      assert row.endswith(
        f'yes       kernels, output channels on axis {axes[path]}'
      )
    else:
      assert ' no ' in row


class LinenNet(nn.Module):
  """Convolution, batch norm, dense."""

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(8, (3, 3), strides=2, name='conv')(x)
    x = nn.relu(nn.BatchNorm(not train, name='norm')(x))
    return nn.Dense(10, name='head')(x.reshape(len(x), -1))


def test_linen(digits):
  net, tx = LinenNet(), _optimizer()
  variables = jax.jit(lambda key, x: net.init(key, x, train=False))(
    jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )

  @jax.jit
  def step(carry, images, labels):
    params, batch_stats, opt_state = carry

    def loss_fn(params):
      logits, updated = net.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        train=True,
        mutable='batch_stats',
      )
      return _cross_entropy(logits, labels), updated['batch_stats']

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return (params, batch_stats, opt_state), loss

  params, batch_stats = variables['params'], variables['batch_stats']
  run = _train(
    step,
    (params, batch_stats, tx.init(params)),
    digits,
    lambda carry: (carry[0], carry[2]),
  )
  assert set(trees.flatten(run.params)) > {'norm/scale', 'norm/bias'}
  _check(run, {'conv/kernel': 3, 'head/kernel': 1})


class NnxNet(nnx.Module):
  """Convolution, batch norm, dense."""

  def __init__(self, rngs):
    self.conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.head = nnx.Linear(128, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x)))
    return self.head(x.reshape(len(x), -1))


def test_nnx(digits):
  model = NnxNet(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, _optimizer(), wrt=nnx.Param)

  @nnx.jit
  def update(model, optimizer, images, labels):
    loss_fn = lambda model: _cross_entropy(model(images), labels)
    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss

  def read(carry):
    model, optimizer = carry
    return nnx.state(model, nnx.Param), optimizer.opt_state

  run = _train(
    lambda carry, x, y: (carry, update(*carry, x, y)),
    (model, optimizer),
    digits,
    read,
  )
  assert isinstance(
    transforms.latents(run.opt_state, run.params)['conv']['kernel'], nnx.Param
  )
  assert set(trees.flatten(run.params)) > {'norm/scale', 'norm/bias'}
  _check(run, {'conv/kernel': 3, 'head/kernel': 1})


@pytest.mark.slow
def test_haiku(digits):
  @hk.without_apply_rng
  @hk.transform
  def net(x):
    x = jax.nn.relu(hk.Conv2D(8, 3, stride=2, name='conv')(x))
    x = hk.LayerNorm(-1, True, True, name='norm')(x)
    return hk.Linear(10, name='head')(x.reshape(len(x), -1))

  params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  run = _train_tree(params, net.apply, digits)
  assert set(trees.flatten(run.params)) > {'norm/scale', 'norm/offset'}
  _check(run, {'conv/w': 3, 'head/w': 1})


class EquinoxNet(eqx.Module):
  """Convolution, layer norm, dense; images are `[8, 8, 1]`."""

  conv: eqx.nn.Conv2d
  norm: eqx.nn.LayerNorm
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key)
    self.conv = eqx.nn.Conv2d(1, 8, 3, stride=2, padding=1, key=keys[0])
    self.norm = eqx.nn.LayerNorm(128)
    self.head = eqx.nn.Linear(128, 10, key=keys[1])

  def __call__(self, image):
    x = jax.nn.relu(self.conv(jnp.moveaxis(image, -1, 0)))
    return self.head(self.norm(x.ravel()))


@pytest.mark.slow
def test_equinox(digits):
  tx = _optimizer()
  model = EquinoxNet(jax.random.key(0))
  inexact = lambda model: eqx.filter(model, eqx.is_inexact_array)

  @eqx.filter_jit
  def step(carry, images, labels):
    model, opt_state = carry
    loss, grads = eqx.filter_value_and_grad(
      lambda model: _cross_entropy(jax.vmap(model)(images), labels)
    )(model)
    updates, opt_state = tx.update(grads, opt_state, inexact(model))
    return (eqx.apply_updates(model, updates), opt_state), loss

  run = _train(
    step,
    (model, tx.init(inexact(model))),
    digits,
    lambda carry: (inexact(carry[0]), carry[1]),
  )
  assert isinstance(transforms.latents(run.opt_state, run.params), EquinoxNet)
  # A norm's weight has the name of a kernel, and one axis.
  assert set(trees.flatten(run.params)) > {'norm/weight', 'norm/bias'}
  _check(run, {'conv/weight': 0, 'head/weight': 0})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
  """A kernel and a bias."""

  kernel: jax.Array
  bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
  """A convolution and a dense layer."""

  conv: Layer
  head: Layer


def _init_net(rng):
  normal = lambda *shape: steps.normal(rng, shape)
  return Net(
    conv=Layer(kernel=normal(3, 3, 1, 8) / 2, bias=normal(8) / 10),
    head=Layer(kernel=normal(128, 10) / 6, bias=normal(10) / 10),
  )


def _apply_net(net, images):
  x = jax.lax.conv_general_dilated(
    images,
    net.conv.kernel,
    (2, 2),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = jax.nn.relu(x + net.conv.bias).reshape(len(x), -1)
  return x @ net.head.kernel + net.head.bias


def test_dataclass(digits, rng):
  run = _train_tree(_init_net(rng), _apply_net, digits)
  assert isinstance(run.params, Net)
  _check(run, {'conv/kernel': 3, 'head/kernel': 1})
