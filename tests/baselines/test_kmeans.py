"""K-means over groups: assignment, sums, means, codewords without groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.baselines import _kmeans

_find = jax.jit(_kmeans.find_codewords, static_argnums=(2,))


def _draw(rng, *shape):
  return np.float32(rng.normal(size=shape))


def _get_error(x, codewords):
  distances = ((x[:, None] - np.asarray(codewords)) ** 2).sum(-1)
  return distances.min(1).sum()


# One block for all, and blocks of 8 rows, the last of them with 5 of its own.
@pytest.mark.parametrize('most_pairs', [2**24, 40])
def test_assignment_and_means(rng, monkeypatch, most_pairs):
  monkeypatch.setattr(_kmeans, '_MAX_PAIRS', most_pairs)
  x, codewords = _draw(rng, 37, 3), _draw(rng, 5, 3)
  codewords[2] = 99.0
  # Traced anew, with these blocks.
  assign = jax.jit(lambda *args: _kmeans.assign(*args))
  get_means = jax.jit(lambda *args: _kmeans.get_means(*args))
  get_sums = jax.jit(lambda *args: _kmeans.get_sums(*args, 5))
  indices = np.asarray(assign(x, codewords))
  assert indices.dtype == np.uint8
  distances = ((x[:, None] - codewords) ** 2).sum(-1)
  np.testing.assert_array_equal(indices, distances.argmin(1))
  means, counts = get_means(x, indices, codewords)
  np.testing.assert_array_equal(counts, np.bincount(indices, minlength=5))
  sums, _ = get_sums(x, indices)
  assert not sums[2].any()
  for k in (0, 1, 3, 4):
    np.testing.assert_allclose(sums[k], x[indices == k].sum(0), rtol=1e-5)
    np.testing.assert_allclose(means[k], x[indices == k].mean(0), rtol=1e-5)
  # No group is near it: it stays.
  assert means[2].tolist() == [99.0] * 3


def test_codewords_without_groups_get_those_that_are_worst_off():
  x = jnp.array([[0.0], [1.0], [5.0], [-7.0], [0.5]])
  codewords = jnp.array([[0.0], [50.0], [1.0], [60.0]])
  indices = jnp.array([0, 2, 2, 0, 0], jnp.uint8)
  revive = jax.jit(_kmeans.revive)
  got = revive(x, indices, codewords)
  # 7 away is the farthest, then 4: to the first and the second that is empty.
  assert got.tolist() == [0, 2, 3, 1, 0]
  assert got.dtype == jnp.uint8
  # Nothing to do.
  assert revive(x, got, codewords).tolist() == got.tolist()


@pytest.mark.slow
def test_each_round_brings_codewords_nearer(rng):
  x, key = _draw(rng, 400, 2), jax.random.key(3)
  errors = [_get_error(x, _find(x, key, 16, n)) for n in (0, 1, 2, 5, 10)]
  assert errors == sorted(errors, reverse=True)
  assert errors[-1] < 0.7 * errors[0]


@pytest.mark.slow
def test_codewords_start_from_different_groups(rng):
  x = _draw(rng, 20, 2)
  for seed in range(3):
    found = _find(x, jax.random.key(seed), 20, 0)
    np.testing.assert_array_equal(np.sort(found[:, 0]), np.sort(x[:, 0]))
