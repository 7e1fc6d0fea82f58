"""One step of training, against the same step written out."""

import functools
import math
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import branches
from hq_jax.models import layers
from hq_jax.runtime import sharding
from hq_jax.training import finite_guard
from hq_jax.training import mixing
from hq_jax.training import train_state
from hq_jax.training import train_step


class _Net(nn.Module):
  """Two dense layers with a batch norm in between."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8, use_bias=False, name='first')(x)
    axes = tuple(sorted(branches.varying(x))) or None
    norm = nn.BatchNorm(not train, momentum=0.75, axis_name=axes, name='norm')
    return nn.Dense(3, name='second')(nn.relu(norm(x)))


_SGD = optax.sgd(0.1, momentum=0.9)


def _begin(tx=_SGD, fsdp=1, net=None):
  mesh = sharding.make_mesh(fsdp)
  key = jax.random.key(0)
  return train_state.make_init(net or _Net(), tx, key, (5,), mesh)(), mesh


@pytest.fixture
def batch(rng):
  labels = rng.integers(0, 3, 16).astype(np.int32)
  means = rng.normal(size=(3, 5))
  images = means[labels] + 0.3 * rng.normal(size=(16, 5))
  return {'image': images.astype(np.float32), 'label': labels}


def _forward(params, images, xp):
  """Logits of the batch, with the mean and the variance of its features."""
  x = images @ params['first']['kernel']
  mean, var = x.mean(0), x.var(0)
  x = (x - mean) / xp.sqrt(var + 1e-5)
  x = x * params['norm']['scale'] + params['norm']['bias']
  x = xp.maximum(x, 0)
  return x @ params['second']['kernel'] + params['second']['bias'], mean, var


def _loss(params, batch, smoothing, xp=np):
  logits, _, _ = _forward(params, batch['image'], xp)
  logits = logits - logits.max(-1, keepdims=True)
  log_p = logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))
  one_hot = np.eye(3)[batch['label']] * (1 - smoothing) + smoothing / 3
  return -(one_hot * log_p).sum(-1).mean()


def _host(tree):
  return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def test_a_step_is_the_step_by_hand(batch):
  smoothing = 0.3
  state, mesh = _begin()
  before = _host(state.params)
  step_fn = train_step.make_train_step(_Net(), _SGD, label_smoothing=smoothing)
  new, sums, _ = step_fn(state, sharding.to_global(batch, mesh))

  # The sums are of the parameters before the step.
  np.testing.assert_allclose(
    sums['loss'], [16 * _loss(before, batch, smoothing), 16], rtol=1e-5
  )
  logits, mean, var = _forward(before, batch['image'], np)
  correct = (logits.argmax(-1) == batch['label']).sum()
  np.testing.assert_array_equal(sums['accuracy'], [correct, 16])
  # Statistics: a quarter of the new ones on three quarters of 0 and 1.
  stats = new.batch_stats['norm']
  np.testing.assert_allclose(stats['mean'], mean / 4, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(stats['var'], 0.75 + var / 4, rtol=1e-4)
  # Gradients by central differences in float64, and the first step of SGD.
  leaves, treedef = jax.tree.flatten(before)
  for i, leaf in enumerate(jax.tree.leaves(_host(new.params))):
    for index in np.ndindex(leaf.shape):
      losses = []
      for change in (1e-5, -1e-5):
        moved = [x.copy() for x in leaves]
        moved[i][index] += change
        losses.append(_loss(treedef.unflatten(moved), batch, smoothing))
      grad = (losses[0] - losses[1]) / 2e-5
      assert leaf[index] == pytest.approx(
        leaves[i][index] - 0.1 * grad, abs=2e-6
      )
  assert new.step == 1 and new.step.dtype == jnp.int32


def test_three_steps_are_those_of_optax(batch):
  state, mesh = _begin()
  params, opt_state = state.params, _SGD.init(state.params)
  for _ in range(3):
    grads = jax.grad(_loss)(params, batch, 0.0, jnp)
    updates, opt_state = _SGD.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  step_fn = train_step.make_train_step(_Net(), _SGD)
  for _ in range(3):
    state, _, _ = step_fn(state, sharding.to_global(batch, mesh))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    (state.params, state.opt_state),
    (params, opt_state),
  )
  assert state.step == 3


def test_the_state_is_consumed_and_stays_in_place(batch):
  state, mesh = _begin()
  step_fn = train_step.make_train_step(_Net(), _SGD)
  types = jax.tree.map(jax.typeof, state)
  new, _, _ = step_fn(state, sharding.to_global(batch, mesh))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.opt_state))
  # The same types, weak or not: nothing is compiled again.
  assert jax.tree.map(jax.typeof, new) == types
  for leaf in jax.tree.leaves(new):
    assert leaf.sharding.is_fully_replicated
    assert len(leaf.addressable_shards) == 8


@pytest.mark.parametrize('gradients', ['masked', 'straight_through'])
def test_all_phases_share_one_program(batch, gradients):
  recipe = transforms.Recipe(
    sparsity=0.6,
    begin_step=1,
    prune_steps=4,
    num_stages=2,
    prune_gradients=gradients,
    refresh_steps=2,
  )
  state, mesh = _begin(tx := transforms.hq(_SGD, recipe), fsdp=4)
  step_fn = train_step.make_train_step(_Net(), tx, mesh=mesh)
  zeros = []
  for _ in range(8):
    state, _, _ = step_fn(state, sharding.to_global(batch, mesh))
    zeros.append(np.count_nonzero(state.params['first']['kernel'] == 0))
  assert zeros[0] == 0 and zeros[-1] == 24
  assert step_fn._cache_size() == 1


def test_gradients_are_taken_at_the_ternary_weights(batch):
  recipe = transforms.Recipe(sparsity=0.5)
  tx = transforms.hq(optax.sgd(0.05), recipe)
  state, mesh = _begin(tx)
  step_fn = train_step.make_train_step(_Net(), tx)
  state, _, _ = step_fn(state, sharding.to_global(batch, mesh))
  before = jax.tree.map(np.array, state.params)
  for name, num_kept in (('first', 20), ('second', 12)):
    kernel = before[name]['kernel']
    assert np.count_nonzero(kernel) == num_kept
    # One magnitude for each channel.
    sizes = [set(np.abs(column[column != 0])) for column in kernel.T]
    assert max(map(len, sizes)) == 1
  state, sums, _ = step_fn(state, sharding.to_global(batch, mesh))
  np.testing.assert_allclose(
    sums['loss'][0], 16 * _loss(_host(before), batch, 0.0), rtol=1e-5
  )


def test_a_teacher_pulls_the_answers_toward_its_own(batch):
  state, mesh = _begin()
  teacher = jax.tree.map(lambda x: x + 0.5, state.variables)
  images = sharding.to_global(batch, mesh)
  step_fn = train_step.make_train_step(
    _Net(), _SGD, distill_weight=1.0, temperature=2.0
  )
  # With the weight 1 the labels do not count.
  other = images | {'label': (images['label'] + 1) % 3}
  first, sums, _ = step_fn(_begin()[0], images, teacher)
  second, _, _ = step_fn(_begin()[0], other, teacher)
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  losses = []
  for _ in range(30):
    state, sums, _ = step_fn(state, images, teacher)
    losses.append(float(sums['loss'][0]))
  assert losses[-1] < 0.1 * losses[0]


class _Images(nn.Module):
  """A linear classifier of images, with a norm that sees nothing."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, train=False):
    nn.BatchNorm(use_running_average=not train, name='norm')(x[:, :1, 0, 0])
    return nn.Dense(3, use_bias=False, name='head')(x.reshape(len(x), -1))


@pytest.mark.slow  # Compiling the Beta takes long.
def test_mixed_images_have_mixed_targets(rng):
  tx = optax.sgd(1.0)
  mesh = sharding.make_mesh()
  images = rng.normal(size=(8, 4, 4, 1)).astype(np.float32)
  labels = np.array([0, 0, 1, 1, 2, 2, 0, 1], np.int32)
  batch = {'image': images, 'label': labels}
  begin = lambda: train_state.make_init(
    _Images(), tx, jax.random.key(0), (4, 4, 1), mesh
  )()
  found = []
  step_fn = train_step.make_train_step(_Images(), tx, seed=5, mixup_alpha=0.4)
  for step in (0, 1):
    state = begin()
    state = state.replace(step=state.step + step)
    kernel = np.array(state.params['head']['kernel'], np.float64)
    state, _, _ = step_fn(state, sharding.to_global(batch, mesh))
    found.append(kernel - np.array(state.params['head']['kernel']))
    # One share for the whole batch, with the neighbour.
    key = jax.random.fold_in(jax.random.key(5), step)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    mixed, targets = mixing.mix(
      key, images, one_hot, mixup_alpha=0.4, cutmix_alpha=0.0
    )
    mixed = np.asarray(mixed, np.float64).reshape(8, -1)
    logits = mixed @ kernel
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = mixed.T @ (p - np.asarray(targets)) / 8
    np.testing.assert_allclose(found[-1], wanted, rtol=1e-4, atol=1e-6)
  # Every step draws its own.
  assert not np.allclose(*found)


def test_a_state_that_devices_share_stays_where_it_is(batch, caplog):
  state, mesh = _begin(fsdp=4)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  assert not state.params['first']['kernel'].sharding.is_fully_replicated
  whole, whole_mesh = _begin()
  plain_fn = train_step.make_train_step(_Net(), _SGD)
  step_fn = train_step.make_train_step(_Net(), _SGD, mesh=mesh)
  images = sharding.to_global(batch, mesh)
  for _ in range(2):
    types = jax.tree.map(jax.typeof, state)
    before = state
    with jax.log_compiles():
      state, sums, finite = step_fn(state, images)
    whole, wanted, _ = plain_fn(whole, sharding.to_global(batch, whole_mesh))
    assert all(x.is_deleted() for x in jax.tree.leaves(before))
    assert jax.tree.map(jax.typeof, state) == types
    same = jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings
    )
    assert all(jax.tree.leaves(same))
    for leaf in jax.tree.leaves((sums, finite)):
      assert leaf.sharding.is_fully_replicated
    assert finite.all()
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      _host((state, sums)),
      _host((whole, wanted)),
    )
  compiled = [
    record
    for record in caplog.records
    if record.getMessage().startswith('Finished XLA compilation of jit(train_s')
  ]
  assert len(compiled) == 1


class _Deep(nn.Module):
  """Three layers, whose weights the devices share."""

  dtype = jnp.bfloat16

  @nn.compact
  def __call__(self, x, train=False):
    dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
    x = layers.norm(dense(16, name='first')(x), train, self.dtype, 'norm')
    x = dense(24, name='second')(nn.relu(x))
    return dense(3, name='third')(nn.relu(x)).astype(jnp.float32)


def test_kernels_are_gathered_once_and_gradients_scattered(batch):
  state, mesh = _begin(fsdp=4, net=_Deep())
  step_fn = train_step.make_train_step(_Deep(), _SGD, mesh=mesh)
  # Before XLA: on a CPU it computes collectives of bfloat16 in float32.
  text = step_fn.lower(state, sharding.to_global(batch, mesh)).as_text()
  # In tiles of 8 times 128, of which each share fills a part of one.
  tile = 8 * 128
  assert _find_sizes(text, 'all_gather') == 3 * [4 * tile]
  assert _find_sizes(text, 'reduce_scatter') == 3 * [tile]
  # And over the two groups of devices that hold the same.
  reduced = _find_sizes(text, 'all_reduce')
  assert {5 * 4, 16 * 6, 6 * 3} < set(reduced)
  assert reduced[-1] == 16 * 6


def _find_sizes(text, operation):
  """Of the results of type bfloat16."""
  found = re.findall(
    rf'stablehlo\.{operation}"?\(.*?-> tensor<([\dx]+)xbf16>', text, re.DOTALL
  )
  return sorted(math.prod(map(int, shape.split('x'))) for shape in found)


_HQ = transforms.hq(optax.adam(0.1), transforms.Recipe(sparsity=0.5))


@pytest.mark.parametrize(
  'tx', [_SGD, pytest.param(_HQ, marks=pytest.mark.slow)], ids=['sgd', 'hq']
)
def test_a_batch_that_is_not_finite_is_skipped(batch, tx):
  (state, mesh), (plain, _) = _begin(tx), _begin(tx)
  step_fn = train_step.make_train_step(_Net(), tx, skip_non_finite=True)
  plain_fn = train_step.make_train_step(_Net(), tx)
  good = sharding.to_global(batch, mesh)
  images = batch['image'].copy()
  images[3, 2] = np.nan
  bad = sharding.to_global(batch | {'image': images}, mesh)
  state, sums, finite = step_fn(state, good)
  plain, wanted, _ = plain_fn(plain, good)
  # Another program, which may round in another place.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    (state, sums),
    (plain, wanted),
  )
  assert finite.all()
  before = jax.tree.map(np.array, state)
  types = jax.tree.map(jax.typeof, state)
  state, sums, finite = step_fn(state, bad)
  assert not finite[0] and state.step == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    state.replace(step=before.step),
    before,
  )
  assert jax.tree.map(jax.typeof, state) == types
  for total in sums.values():
    np.testing.assert_array_equal(total, [0, 0])
  # Without being asked to, a step takes it as it comes.
  plain, sums, finite = plain_fn(plain, bad)
  assert np.isnan(sums['loss'][0]) and not finite[0]
  assert np.isnan(plain.batch_stats['norm']['mean']).any()
  # And it goes on.
  state, sums, finite = step_fn(state, good)
  assert finite.all() and sums['loss'][1] == 16 and state.step == 3


@jax.custom_vjp
def _divide_backward(x):
  """What a layer does whose gradient alone is broken."""
  return x


_divide_backward.defvjp(lambda x: (x, None), lambda _, g: (g / 0,))


class _Broken(nn.Module):
  """A network of which one gradient is infinite."""

  @nn.compact
  def __call__(self, x, train=False):
    scale = self.param('scale', nn.initializers.ones, ())
    x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
    x = nn.Dense(3, name='head')(x) * _divide_backward(scale)
    return x


def test_the_gradient_that_is_not_finite_is_named(batch):
  state, mesh = _begin(net=_Broken())
  before = jax.tree.map(np.array, state.variables)
  step_fn = train_step.make_train_step(_Broken(), _SGD, skip_non_finite=True)
  names = finite_guard.get_names(state.params)
  state, sums, finite = step_fn(state, sharding.to_global(batch, mesh))
  broken = [n for n, ok in zip(names, finite, strict=True) if not ok]
  assert broken == ['gradient of scale']
  jax.tree.map(np.testing.assert_array_equal, state.variables, before)
  np.testing.assert_array_equal(sums['loss'], [0, 0])
