"""Distances, zeros, dead channels, flips and biases of every kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import models
from hq_jax import transforms
from hq_jax.runtime import sharding
from hq_jax.training import diagnostics
from hq_jax.training import train_state

# As they are used: inside a compiled program.
_kernel_diagnostics = jax.jit(
  diagnostics.kernel_diagnostics,
  static_argnames=('sparsity', 'scope', 'unit_norm', 'select', 'channel_axis'),
)
_flip_rate = jax.jit(diagnostics.flip_rate, static_argnames='select')
_ste_bias = jax.jit(diagnostics.ste_bias, static_argnames='select')


def _codes_distance(w, codes):
  """1 - cos of each channel and its codes, in float64, as in the docstring."""
  w = w.astype(np.float64).reshape(-1, w.shape[-1])
  codes = codes.reshape(w.shape)
  k = np.abs(codes).sum(0)
  dot = (w * codes).sum(0) / np.linalg.norm(w, axis=0)
  cosine = dot / np.sqrt(np.maximum(k, 1))
  return np.mean(1 - np.where(k > 0, cosine, 0))


def _distance(w, sparsity, unit_norm):
  """The same at the codes of a sparsity."""
  columns = w.astype(np.float64).reshape(-1, w.shape[-1])
  norm = np.linalg.norm(columns, axis=0)
  rank = np.abs(columns / norm if unit_norm else columns)
  kept = max(1, round((1 - sparsity) * w.size))
  limit = np.sort(rank, axis=None)[-kept]
  return _codes_distance(w, np.where(rank >= limit, np.sign(columns), 0))


@pytest.fixture
def params(rng):
  return {
    'conv': {
      'kernel': rng.normal(size=(3, 3, 4, 6)) * np.geomspace(0.1, 10, 6),
      'bias': np.zeros(6),
    },
    'head': {'kernel': rng.normal(size=(20, 5)), 'bias': np.zeros(5)},
  }


@pytest.mark.parametrize(
  ('sparsity', 'unit_norm'),
  [(0.0, True), (0.5, True), (0.5, False), (0.999, False)],
)
def test_distances_match_the_equation(params, sparsity, unit_norm):
  params = jax.tree.map(jnp.float32, params)
  found = _kernel_diagnostics(
    params, params, sparsity=sparsity, unit_norm=unit_norm
  )
  assert found.keys() == {'cosine_distance', 'sparsity', 'dead_channels'}
  for name in ('conv', 'head'):
    wanted = _distance(np.asarray(params[name]['kernel']), sparsity, unit_norm)
    distance = found['cosine_distance'][f'{name}/kernel']
    assert distance.dtype == jnp.float32 and distance.shape == ()
    assert float(distance) == pytest.approx(wanted, abs=1e-6)
    assert float(found['sparsity'][f'{name}/kernel']) == 0
    assert float(found['dead_channels'][f'{name}/kernel']) == 0
  # Biases are no kernels.
  for values in found.values():
    assert set(values) == {'conv/kernel', 'head/kernel'}


def test_without_a_sparsity_distances_are_to_the_params(rng):
  w = rng.normal(size=(12, 5)).astype(np.float32)
  codes = rng.integers(-1, 2, (12, 5))
  codes[:, 2] = 0
  # Any scale of a channel is the same direction.
  params = {'kernel': jnp.float32(codes * rng.uniform(0.1, 9, 5))}
  found = _kernel_diagnostics(params, {'kernel': jnp.asarray(w)})
  assert float(found['cosine_distance']['kernel']) == pytest.approx(
    _codes_distance(w, codes), abs=1e-6
  )
  assert float(found['sparsity']['kernel']) == pytest.approx(
    np.mean(codes == 0), abs=1e-7
  )
  assert float(found['dead_channels']['kernel']) == pytest.approx(0.2)


def test_dense_weights_are_at_no_distance_below_zero(rng):
  # 1 - cos of equal directions, rounded, is of either sign.
  params = {
    f'{i}': {'kernel': jnp.asarray(rng.normal(size=(9, 1)), jnp.float32)}
    for i in range(100)
  }
  for found in (
    _kernel_diagnostics(params, params)['cosine_distance'],
    _ste_bias(params, params),
  ):
    values = np.array([*found.values()])
    assert values.shape == (100,)
    assert values.min() == 0 and values.max() < 1e-6


def test_distances_in_a_scope_and_by_path():
  w = {
    'a': jnp.array([[4.0, 0.2], [4.0, -0.1], [0.0, 0.0], [0.0, 0.0]]),
    'b': jnp.array([[3.0], [4.0]]),
  }
  find = functools.partial(
    diagnostics.kernel_diagnostics,
    sparsity={'a': 0.75, 'b': 0.0},
    select='.*',
    unit_norm=False,
  )
  found = jax.jit(
    lambda w: [find(w, w, scope=scope) for scope in ('layer', 'channel')]
  )(w)
  layer, channel = (one['cosine_distance'] for one in found)
  # Of eight weights both 4 are kept, and the other channel has no code; of
  # each channel, 4 and 0.2.
  assert float(layer['a']) == pytest.approx(0.5, abs=1e-6)
  wanted = (1 - 0.5**0.5 + 1 - 0.2 / 0.05**0.5) / 2
  assert float(channel['a']) == pytest.approx(wanted, abs=1e-6)
  for distances in (layer, channel):
    assert float(distances['b']) == pytest.approx(1 - 7 / 50**0.5, abs=1e-6)


def test_distances_are_of_the_latents_and_zeros_of_the_params():
  params = {'kernel': jnp.array([[0.0, 0.0], [0.0, 1.0]])}
  latents = {'kernel': jnp.ones((2, 2))}
  found = _kernel_diagnostics(params, latents, sparsity=0.0)
  assert float(found['sparsity']['kernel']) == 0.75
  assert float(found['dead_channels']['kernel']) == 0.5
  assert float(found['cosine_distance']['kernel']) == pytest.approx(0, abs=1e-6)


def test_dead_channels_on_either_axis():
  w = np.ones((4, 3, 2), np.float32)
  w[1] = 0
  w[3] = -0.0
  w[:, :, 1] = 0
  w[0, 0, 1] = jnp.nan
  # Of the first axis the second and the last; of the last one none, because a
  # NaN is no zero.
  params = {'a': {'kernel': jnp.asarray(w)}, 'b': {'weight': jnp.asarray(w)}}
  found = _kernel_diagnostics(params, params)['dead_channels']
  assert (found['a/kernel'], found['b/weight']) == (0.0, 0.5)
  found = _kernel_diagnostics(params, params, channel_axis=0)['dead_channels']
  assert (found['a/kernel'], found['b/weight']) == (0.5, 0.5)


def test_other_leaves_can_be_selected():
  params = {'a': jnp.ones(4), 'b': jnp.ones((2, 2))}
  found = _kernel_diagnostics(params, params, sparsity=0.5, select='b')
  assert set(found['sparsity']) == {'b'}
  with pytest.raises(ValueError, match='matches no leaf'):
    diagnostics.kernel_diagnostics(params, params, sparsity=0.5)


def test_a_broken_channel_is_seen():
  w = jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])
  found = _kernel_diagnostics({'kernel': w}, {'kernel': w}, sparsity=0.0)
  assert np.isnan(found['cosine_distance']['kernel'])


def test_flip_rate_literals():
  before = jnp.array([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]])
  after = jnp.array([[2.0, 0.0, -0.0], [-1.0, 1.0, 0.5]])
  # Of six, those that changed sign or came from or to zero; sizes are no
  # matter.
  found = _flip_rate({'kernel': before}, {'kernel': after})
  assert float(found['kernel']) == pytest.approx(4 / 6)
  assert found['kernel'].dtype == jnp.float32
  assert float(_flip_rate({'kernel': after}, {'kernel': after})['kernel']) == 0


def test_flip_rate_matches_the_equation(params, rng):
  before = jax.tree.map(jnp.float32, params)
  moved = jax.tree.map(
    lambda w: jnp.float32(w + rng.normal(size=np.shape(w))), params
  )
  found = _flip_rate(before, moved)
  assert set(found) == {'conv/kernel', 'head/kernel'}
  for name in ('conv', 'head'):
    a, b = before[name]['kernel'], moved[name]['kernel']
    wanted = np.mean(np.sign(a) != np.sign(b))
    assert 0 < wanted < 1
    assert float(found[f'{name}/kernel']) == pytest.approx(wanted, abs=1e-7)
  found = _flip_rate(before, moved, select='head/.*l')
  assert set(found) == {'head/kernel'}
  with pytest.raises(ValueError, match='matches no leaf'):
    diagnostics.flip_rate(before, moved, select='tail')


def _cosine(a, b):
  a, b = np.float64(a).ravel(), np.float64(b).ravel()
  return a @ b / np.sqrt((a @ a) * (b @ b))


def test_ste_bias_matches_the_equation(params, rng):
  draw = lambda w: jnp.float32(rng.normal(size=np.shape(w)) + 0.3)
  a, b = jax.tree.map(draw, params), jax.tree.map(draw, params)
  found = _ste_bias(a, b)
  assert set(found) == {'conv/kernel', 'head/kernel'}
  for name in ('conv', 'head'):
    wanted = 1 - _cosine(a[name]['kernel'], b[name]['kernel'])
    got = found[f'{name}/kernel']
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(wanted, abs=1e-6)
  assert set(_ste_bias(a, b, select='conv/.*l')) == {'conv/kernel'}


@pytest.mark.parametrize('size', [1e-25, 1e-30, 1.0, 1e25])
def test_ste_bias_of_gradients_of_any_size(rng, size):
  # Their squares are no float32.
  a, b = rng.normal(size=(2, 6, 4))
  wanted = 1 - _cosine(a, b)
  a, b = ({'kernel': jnp.float32(size * g)} for g in (a, b))
  assert float(_ste_bias(a, b)['kernel']) == pytest.approx(wanted, abs=1e-6)
  assert float(_ste_bias(a, a)['kernel']) == pytest.approx(0, abs=1e-6)
  opposite = {'kernel': -a['kernel']}
  assert float(_ste_bias(a, opposite)['kernel']) == pytest.approx(2, abs=1e-6)


def test_ste_bias_of_no_gradient_is_one(rng):
  some = {'kernel': jnp.float32(rng.normal(size=(6, 4)))}
  none = {'kernel': jnp.zeros((6, 4))}
  for a, b in ((some, none), (none, some), (none, none)):
    assert float(_ste_bias(a, b)['kernel']) == 1
  broken = {'kernel': none['kernel'].at[0, 0].set(jnp.nan)}
  assert np.isnan(_ste_bias(some, broken)['kernel'])


def test_ste_bias_of_bfloat16_is_computed_in_float32(rng):
  a, b = jnp.asarray(rng.normal(size=(2, 60, 50)), jnp.bfloat16)
  wanted = 1 - _cosine(np.float32(a), np.float32(b))
  got = _ste_bias({'kernel': a}, {'kernel': b})['kernel']
  assert got.dtype == jnp.float32
  assert float(got) == pytest.approx(wanted, abs=1e-6)


def test_tiny_weights_are_not_dead():
  p = {'kernel': jnp.full((4, 2), 1e-25).at[:, 1].set(0.0)}
  found = diagnostics.kernel_diagnostics(p, p)
  assert float(found['dead_channels']['kernel']) == 0.5


@pytest.fixture(scope='module')
def network():
  """A perceptron, a batch, and states with dense and with ternary weights."""
  rng = np.random.default_rng(3)
  model = models.build('mlp', num_classes=4, arguments={'widths': [8]})
  batch = {
    'image': rng.normal(size=(16, 2, 3, 1)).astype(np.float32),
    'label': rng.integers(0, 4, 16).astype(np.int32),
  }
  recipe = transforms.Recipe(sparsity=0.5)
  tx = transforms.hq(optax.sgd(0.1), recipe)
  variables = model.init(jax.random.key(0), batch['image'])
  dense = train_state.TrainState(jnp.int32(0), **variables, opt_state=())

  @jax.jit
  def step(params):
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, opt_state = tx.update(zero, tx.init(params), params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = step(dense.params)
  state = dense.replace(params=params, opt_state=opt_state)
  return model, batch, dense, state


def _loss(params, images, labels):
  """Of the perceptron in training, with the mean and variance of the batch."""
  x = images.reshape(len(images), -1) @ params['dense1']['kernel']
  x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
  x = x * params['norm1']['scale'] + params['norm1']['bias']
  logits = jnp.maximum(x, 0) @ params['head']['kernel'] + params['head']['bias']
  log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  return -log_p[jnp.arange(len(labels)), labels].mean()


def test_the_bias_is_that_between_parameters_and_latents(network):
  model, batch, dense, state = network
  watched = {'select': lambda path, leaf: path.endswith('kernel')}
  diagnose = diagnostics.make_diagnose(
    model, sharding.make_mesh(), watched, batch
  )
  found = diagnose(state)
  assert found.keys() == {
    *('cosine_distance', 'sparsity', 'dead_channels', 'ste_bias')
  }
  assert found['ste_bias'].keys() == {'dense1/kernel', 'head/kernel'}
  gradient = jax.jit(jax.grad(_loss))
  # Projected, but not moved; the weights that are not quantized are the same.
  latents = jax.tree.map(
    lambda p, w: p if isinstance(w, optax.MaskedNode) else w,
    state.params,
    state.opt_state.latents,
    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
  )
  one, other = (
    gradient(params, batch['image'], batch['label'])
    for params in (state.params, latents)
  )
  for path, value in found['ste_bias'].items():
    module, leaf = path.split('/')
    assert (state.params[module][leaf] == 0).mean() == 0.5
    wanted = 1 - _cosine(one[module][leaf], other[module][leaf])
    assert value.dtype == jnp.float32 and wanted > 0.01
    assert float(value) == pytest.approx(wanted, rel=1e-3)
  # Dense weights have none.
  bias = diagnose(dense)['ste_bias']
  assert all(abs(float(value)) < 1e-6 for value in bias.values())


def test_the_bias_is_measured_where_it_was_asked_for(network):
  model, _, dense, _ = network
  watched = {'select': lambda path, leaf: path == 'head/kernel'}
  diagnose = diagnostics.make_diagnose(
    model, sharding.make_mesh(), watched, None
  )
  found = diagnose(dense)
  assert found.keys() == {'cosine_distance', 'sparsity', 'dead_channels'}
  assert found['sparsity'].keys() == {'head/kernel'}


def test_stacked_layers_are_measured_one_by_one(rng):
  gains = 2.0 ** -np.arange(3).reshape(-1, 1, 1)
  w = jnp.asarray(rng.normal(size=(3, 20, 5)) * gains, jnp.float32)
  found = diagnostics.kernel_diagnostics(
    {'kernel': w}, {'kernel': w}, sparsity=0.5, layer_axes=0
  )
  wanted = [_distance(np.asarray(layer), 0.5, True) for layer in w]
  assert float(found['cosine_distance']['kernel']) == pytest.approx(
    np.mean(wanted), abs=1e-6
  )
  # A layer of large gradients does not hide one that points elsewhere.
  grads, others = {'kernel': w}, {'kernel': w.at[2].multiply(-1)}
  bias = diagnostics.ste_bias(grads, others, layer_axes=0)['kernel']
  assert float(bias) == pytest.approx(2 / 3, abs=1e-6)
