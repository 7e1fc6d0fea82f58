"""Cosine distances and sparsities of every kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import diagnostics


def _distance(w, sparsity, unit_norm):
  """1 - cos of each channel and its codes, in float64, as in the docstring."""
  w = w.astype(np.float64).reshape(-1, w.shape[-1])
  u = w / np.linalg.norm(w, axis=0)
  rank = np.abs(u if unit_norm else w)
  kept = max(1, round((1 - sparsity) * w.size))
  limit = np.sort(rank, axis=None)[-kept]
  codes = np.where(rank >= limit, np.sign(w), 0)
  k = np.abs(codes).sum(0)
  cosine = (u * codes).sum(0) / np.sqrt(np.maximum(k, 1))
  return np.mean(1 - np.where(k > 0, cosine, 0))


@pytest.fixture
def params(rng):
  return {
    'conv': {
      'kernel': rng.normal(size=(3, 3, 4, 6)) * np.geomspace(0.1, 10, 6),
      'bias': np.zeros(6),
    },
    'head': {'kernel': rng.normal(size=(20, 5)), 'bias': np.zeros(5)},
  }


@pytest.mark.parametrize('unit_norm', [True, False])
@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.9, 0.999])
def test_distances_match_the_equation(params, sparsity, unit_norm):
  params = jax.tree.map(jnp.float32, params)
  found = diagnostics.kernel_diagnostics(
    params, params, sparsity=sparsity, unit_norm=unit_norm
  )
  assert found.keys() == {'cosine_distance', 'sparsity'}
  for name in ('conv', 'head'):
    wanted = _distance(np.asarray(params[name]['kernel']), sparsity, unit_norm)
    distance = found['cosine_distance'][f'{name}/kernel']
    assert distance.dtype == jnp.float32 and distance.shape == ()
    assert float(distance) == pytest.approx(wanted, abs=1e-6)
    assert float(found['sparsity'][f'{name}/kernel']) == 0
  # Biases are no kernels.
  assert set(found['sparsity']) == {'conv/kernel', 'head/kernel'}


def test_literals():
  w = jnp.array([[3.0], [-4.0], [0.0], [0.0]])
  # At 50% zeros (3, -4) against (1, -1): 1 - 7 / (5 sqrt 2).
  found = diagnostics.kernel_diagnostics(
    {'kernel': w}, {'kernel': w}, sparsity=0.5
  )
  assert float(found['cosine_distance']['kernel']) == pytest.approx(
    1 - 7 / (5 * np.sqrt(2)), abs=1e-6
  )
  # At 75% zeros 4 alone: 1 - 4 / 5.
  found = diagnostics.kernel_diagnostics(
    {'kernel': w}, {'kernel': w}, sparsity=0.75
  )
  assert float(found['cosine_distance']['kernel']) == pytest.approx(0.2)


def test_distances_are_of_the_latents_and_zeros_of_the_params():
  params = {'kernel': jnp.array([[0.0, 0.0], [0.0, 1.0]])}
  latents = {'kernel': jnp.ones((2, 2))}
  found = diagnostics.kernel_diagnostics(params, latents, sparsity=0.0)
  assert float(found['sparsity']['kernel']) == 0.75
  assert float(found['cosine_distance']['kernel']) == pytest.approx(0, abs=1e-6)


def test_other_leaves_can_be_selected(params):
  params = {'a': jnp.ones(4), 'b': jnp.ones((2, 2))}
  found = diagnostics.kernel_diagnostics(
    params, params, sparsity=0.5, select='b'
  )
  assert set(found['sparsity']) == {'b'}
  with pytest.raises(ValueError, match='matches no leaf'):
    diagnostics.kernel_diagnostics(params, params, sparsity=0.5)


def test_a_broken_channel_is_seen():
  w = jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])
  found = diagnostics.kernel_diagnostics(
    {'kernel': w}, {'kernel': w}, sparsity=0.0
  )
  assert np.isnan(found['cosine_distance']['kernel'])
