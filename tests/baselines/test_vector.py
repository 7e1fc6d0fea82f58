"""Codewords for groups of weights: how they are cut, and how they move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax.core import trees

# All but the first tests take a kernel of 128 groups.
SHAPE = (64, 4)
QUANTIZER = baselines.vector(group_size=2, num_codewords=8, refresh_steps=3)


def _kernel(rng):
  return np.float32(rng.normal(size=SHAPE))


def _init(w, quantizer=QUANTIZER):
  return quantizer.init({'a': w}, {'a': trees.Axes((w.ndim - 1,))})


@jax.jit
def _update(w, state):
  latents = {'a': w}
  quantized, state = QUANTIZER.update(
    latents, state, latents, {'a': trees.Axes((1,))}
  )
  return quantized['a'], state


def _to_groups(w, scales):
  """`[32, 4, 2]`: the groups of each channel, by the equation."""
  return (w / np.asarray(scales)).reshape(32, 2, 4).swapaxes(1, 2)


@pytest.mark.parametrize(
  ('shape', 'arguments', 'groups', 'codewords'),
  [
    # d is the largest divisor up to 4; K a power of two with 8 groups each.
    ((8, 64), {}, (2, 64), (16, 4)),
    ((8, 60), {}, (2, 60), (8, 4)),
    ((3, 3, 6, 8), {}, (3, 3, 2, 8), (16, 3)),
    ((3, 3, 1, 4), {}, (3, 3, 1, 4), (4, 1)),
    ((7, 64), {'num_codewords': 20}, (7, 64), (20, 1)),
    ((7, 2), {'group_size': 9}, (1, 2), (2, 7)),
    ((2, 1), {}, (1, 1), (1, 2)),
  ],
)
def test_how_a_kernel_is_cut(shape, arguments, groups, codewords):
  w = jax.ShapeDtypeStruct(shape, jnp.float32)
  book = jax.eval_shape(
    lambda w: _init(w, baselines.vector(**arguments)), w
  ).codebooks['a']
  assert book.indices.shape == groups
  assert book.codewords.shape == codewords
  assert book.scales.shape == shape[-1:]


@pytest.mark.slow
def test_a_kernel_of_few_patterns_is_found_exactly():
  # Two groups of two inputs, in channels of norm 5, 5 and 10.
  w = jnp.array(
    [[3.0, 0.0, 6.0], [4.0, 0.0, 8.0], [0.0, 3.0, 0.0], [0.0, 4.0, 0.0]]
  )
  quantizer, axes = baselines.vector(group_size=2), {'a': trees.Axes((1,))}
  state = quantizer.init({'a': w}, axes)
  quantized, state = quantizer.update({'a': w}, state, {'a': w}, axes)
  # The float16 next to 0.6 and 0.8 are half of 2^-11 away, or less.
  np.testing.assert_allclose(quantized['a'], w, atol=10 * 2**-12)
  book = state.codebooks['a']
  assert book.scales.tolist() == [5.0, 5.0, 10.0]
  (i, j, k), others = book.indices[0], book.indices[1]
  assert i == k != j and others.tolist() == [j, i, j]


def test_k_means_gives_the_first_codewords(rng):
  w = _kernel(rng)
  quantizer = baselines.vector(group_size=2, num_codewords=2)
  book = _init(w, quantizer).codebooks['a']
  norms = np.sqrt((np.asarray(w, np.float64) ** 2).sum(0))
  np.testing.assert_allclose(book.scales, norms, rtol=2**-8)
  # After ten rounds two codewords stand still, or nearly.
  groups = _to_groups(w, book.scales)
  for k in range(2):
    wanted = groups[np.asarray(book.indices) == k].mean(0)
    np.testing.assert_allclose(book.codewords[k], wanted, atol=0.01)


def test_a_codeword_takes_the_step_of_gradient_descent(rng):
  w, g, rate = _kernel(rng), _kernel(rng), 0.05
  quantizer = baselines.vector(2, 8, optimizer=optax.sgd(rate))
  state = _init(w, quantizer)
  before = state.codebooks['a']
  # Nothing is nearest to it.
  before = before._replace(
    indices=np.where(before.indices == 5, 2, before.indices)
  )
  state = state._replace(codebooks={'a': before})

  # The gradient at the codewords of a loss with the gradient g at the kernel.
  def loss(codewords):
    groups = codewords[before.indices].swapaxes(1, 2).reshape(SHAPE)
    return jnp.sum(g * groups * before.scales)

  @jax.jit
  def step(g, w, state):
    state = quantizer.learn({'a': g}, {'a': w}, state, {'a': trees.Axes((1,))})
    return quantizer.update({'a': w}, state, {'a': w}, {'a': trees.Axes((1,))})[
      1
    ]

  after = step(g, w, state).codebooks['a']
  # Of the codewords times 8, which is the root of 64 inputs.
  moved = rate / 64 * jax.grad(loss)(before.codewords)
  # Both are rounded, by up to 2^-14 below 1/2.
  assert np.abs(moved).max() > 30 * 2**-14
  np.testing.assert_allclose(
    after.codewords, before.codewords - moved, atol=3 * 2**-14
  )
  np.testing.assert_array_equal(after.codewords[5], before.codewords[5])


def test_latents_alone_move_no_codeword(rng):
  w, moved = _kernel(rng), _kernel(rng)
  state = _init(w)
  _, after = _update(moved, state)
  before, after = state.codebooks['a'], after.codebooks['a']
  np.testing.assert_array_equal(after.codewords, before.codewords)
  # Each group has the nearest of them.
  groups = _to_groups(moved, after.scales)[..., None, :]
  distances = ((groups - np.asarray(after.codewords)) ** 2).sum(-1)
  np.testing.assert_array_equal(after.indices, distances.argmin(-1))


def test_codewords_are_at_most_1(rng):
  w = _kernel(rng)
  state = _init(w)
  far = state.unit_codewords['a'].at[3].set(jnp.array([99.0, -99.0]))
  _, state = _update(w, state._replace(unit_codewords={'a': far}))
  assert state.codebooks['a'].codewords[3].tolist() == [1.0, -1.0]


def test_groups_are_assigned_anew_when_they_should(rng):
  start, end = _kernel(rng), _kernel(rng)
  state, changed = _init(start), []
  for t in range(7):
    before = state.codebooks['a'].indices
    _, state = _update(start + t / 6 * (end - start), state)
    changed.append(bool((state.codebooks['a'].indices != before).any()))
  assert changed[1:] == [False, False, True, False, False, True]


def test_the_seed_says_where_it_starts(rng):
  w = _kernel(rng)
  found = [
    _init(w, baselines.vector(2, 8, seed=seed)).codebooks['a'].codewords
    for seed in (5, 5, 6)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert (found[0] != found[2]).any()


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_one_bad_weight_is_seen(rng, bad):
  w = _kernel(rng)
  state = _init(w)
  w = w.copy()  # JAX may still read the other.
  w[2, 1] = bad
  quantized, _ = _update(w, state)
  np.testing.assert_array_equal(
    np.isfinite(quantized), np.arange(4) != np.ones(SHAPE)
  )


def test_channels_of_zeros_stay_zero(rng):
  w = _kernel(rng)
  w[:, 1] = 0.0
  quantized, _ = _update(w, _init(w))
  assert not quantized[:, 1].any()
  assert quantized[:, (0, 2, 3)].any(0).all()
  quantized, _ = _update(0 * w, _init(0 * w))
  np.testing.assert_array_equal(quantized, 0)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'group_size': 0}, 'group_size is 0'),
    ({'refresh_steps': 0}, 'refresh_steps 0'),
    ({'num_codewords': 1}, 'num_codewords is 1, wanted 2 to 256'),
    ({'num_codewords': 257}, 'num_codewords is 257'),
  ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    baselines.vector(**arguments)
