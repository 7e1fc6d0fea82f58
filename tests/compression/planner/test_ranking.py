"""Classes of ranks, against a sort."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax.compression.planner import ranking


def _classify(weights, kept):
  """The classes of all weights, by the definition."""
  norms = np.linalg.norm(np.float64(weights), axis=0)
  unit = np.float32(np.abs(weights / np.where(norms > 0, norms, 1)))
  order = np.argsort(-unit.ravel(), kind='stable')
  classes = np.empty(unit.size, int)
  classes[order] = np.searchsorted(kept, np.arange(unit.size), 'right')
  return classes.reshape(unit.shape)


def _check(weights, kept):
  kernel = ranking.make_kernel(weights)
  classify = ranking.make_classifier(kernel, kept)
  found = [
    classify(block).reshape(block.magnitudes.shape)
    for block in kernel.get_blocks()
  ]
  np.testing.assert_array_equal(
    np.concatenate(found, axis=1), _classify(weights, kept)
  )
  return len(found)


@hypothesis.given(
  st.integers(1, 30),
  st.integers(1, 8),
  st.sampled_from(['gaussian', 'ties', 'zeros', 'wide', 'equal']),
  st.lists(st.integers(1, 10**6), max_size=5),
)
def test_classes_are_those_of_a_sort(num_inputs, num_channels, kind, kept):
  rng = np.random.default_rng(0)
  weights = rng.standard_normal((num_inputs, num_channels), np.float32)
  if kind == 'ties':
    weights = np.rint(weights)
  elif kind == 'zeros':
    weights *= rng.random(weights.shape) < 0.2
  elif kind == 'wide':
    weights *= np.float32(10) ** rng.integers(-20, 9, weights.shape)
  elif kind == 'equal':
    weights = np.ones_like(weights)
  kept = sorted({min(k, weights.size) for k in kept} | {weights.size})
  _check(np.float32(weights), np.array(kept))


@pytest.mark.parametrize('kind', ['gaussian', 'equal'])
@pytest.mark.parametrize('shape', [(300, 3000), (9, 40_000), (300_000, 3)])
def test_a_large_kernel_is_looked_at_in_blocks(rng, shape, kind):
  weights = rng.standard_normal(shape, np.float32)
  if kind == 'equal':  # What is kept is a matter of the index alone.
    weights = np.sign(weights)
  kept = np.geomspace(1, weights.size, 50).astype(int)
  assert _check(weights, kept) > 2
