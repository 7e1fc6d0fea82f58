"""Codewords for groups of weights: how they are cut, and how they move."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import quantizers

# All but the first tests take a kernel of 128 groups.
SHAPE = (64, 4)
QUANTIZER = quantizers.vector(group_size=2, num_codewords=8, refresh_steps=3)


def _kernel(rng):
  return np.float32(rng.normal(size=SHAPE))


def _init(w, quantizer=QUANTIZER):
  return quantizer.init({'a': w}, {'a': w.ndim - 1})


@jax.jit
def _update(w, state):
  latents = {'a': w}
  quantized, state = QUANTIZER.update(latents, state, latents, {'a': 1})
  return quantized['a'], state


def _follow(w, moved):
  """The codebook before and after latents moved, without a refresh."""
  state = _init(w)
  _, after = _update(moved, state._replace(vector_count=jnp.int32(1)))
  return state.codebooks['a'], after.codebooks['a']


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
    lambda w: _init(w, quantizers.vector(**arguments)), w
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
  quantizer, axes = quantizers.vector(group_size=2), {'a': 1}
  state = quantizer.init({'a': w}, axes)
  quantized, state = quantizer.update({'a': w}, state, {'a': w}, axes)
  # The float16 next to 0.6 and 0.8 are half of 2^-11 away, or less.
  np.testing.assert_allclose(quantized['a'], w, atol=10 * 2**-12)
  book = state.codebooks['a']
  assert book.scales.tolist() == [5.0, 5.0, 10.0]
  (i, j, k), others = book.indices[0], book.indices[1]
  assert i == k != j and others.tolist() == [j, i, j]


def test_the_codewords_are_the_means_of_their_groups(rng):
  w = _kernel(rng)
  moved = w + 0.1 * _kernel(rng)
  before, after = _follow(w, moved)
  np.testing.assert_array_equal(after.indices, before.indices)
  norms = np.sqrt((np.asarray(moved, np.float64) ** 2).sum(0))
  np.testing.assert_allclose(after.scales, norms, rtol=2**-8)
  groups = (moved / np.asarray(after.scales)).reshape(32, 2, 4).swapaxes(1, 2)
  for k in range(8):
    wanted = groups[np.asarray(after.indices) == k].mean(0)
    np.testing.assert_allclose(after.codewords[k], wanted, atol=2**-12)


def test_a_codeword_takes_the_step_of_gradient_descent(rng):
  # With norms of 1, and a gradient along the sphere, which keeps them.
  w, g, rate = _kernel(rng), _kernel(rng), 0.008
  w /= np.linalg.norm(w, axis=0)
  g -= w * (g * w).sum(0)
  before, after = _follow(w, w - rate * g)
  assert before.scales.tolist() == after.scales.tolist() == [1.0] * 4

  # The gradient at the codewords of a loss with the gradient g at the kernel.
  def loss(codewords):
    groups = codewords[before.indices].swapaxes(1, 2).reshape(SHAPE)
    return jnp.sum(g * groups)

  counts = np.bincount(np.ravel(before.indices), minlength=8)[:, None]
  step = rate / counts * jax.grad(loss)(before.codewords)
  # Both are rounded, by up to 2^-14 below 1/4.
  assert np.abs(step).max() > 30 * 2**-14
  np.testing.assert_allclose(
    after.codewords, before.codewords - step, atol=3 * 2**-14
  )


def test_groups_are_assigned_anew_when_they_should(rng):
  start, end = _kernel(rng), _kernel(rng)
  state, changed = _init(start), []
  for t in range(7):
    before = state.codebooks['a'].indices
    _, state = _update(start + t / 6 * (end - start), state)
    changed.append(bool((state.codebooks['a'].indices != before).any()))
  assert changed[1:] == [False, False, True, False, False, True]
  # Held still, each refresh brings the codewords nearer.
  errors = []
  for t in range(12):
    quantized, state = _update(end, state)
    if t % 3 == 2:
      errors.append(float(jnp.sum((quantized - end) ** 2)))
  assert errors[-1] < errors[0]
  assert all(b <= a * 1.001 for a, b in itertools.pairwise(errors))


def test_no_codeword_is_idle_after_a_refresh(rng):
  w = _kernel(rng)
  state = _init(w)
  book = state.codebooks['a']
  far = book._replace(codewords=book.codewords.at[3:6].set(9.0))
  _, state = _update(w, state._replace(codebooks={'a': far}))
  book = state.codebooks['a']
  assert set(np.ravel(book.indices)) == set(range(8))
  assert np.abs(book.codewords).max() < 1


def test_the_seed_says_where_it_starts(rng):
  w = _kernel(rng)
  found = [
    _init(w, quantizers.vector(2, 8, seed=seed)).codebooks['a'].codewords
    for seed in (5, 5, 6)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert (found[0] != found[2]).any()


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_one_bad_weight_is_seen(rng, bad):
  w = _kernel(rng)
  state = _init(w)
  w[2, 1] = bad
  quantized, _ = _update(w, state)
  assert not np.isfinite(quantized[:, 1]).any()
  assert not np.isnan(bad) or np.isnan(quantized).all()


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
    quantizers.vector(**arguments)
