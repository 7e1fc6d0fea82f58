"""The factor that fills the bytes of a target, on real files."""

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.core import qtensors

SHAPES = {'a': (3, 3, 24, 48), 'b': (1, 1, 48, 96), 'c': (96, 40)}


def _draw(sparsities, factor, structured, seed=0):
  """Codes at `1 - (1 - s) factor` zeros, as training would leave them."""
  rng = np.random.default_rng(seed)
  found = {}
  for path, shape in SHAPES.items():
    size = np.prod(shape)
    kept = round((1 - sparsities[path]) * factor * size)
    score = rng.normal(size=shape)
    signs = np.where(rng.random(shape) < 0.5, 1, -1)
    if structured:
      score = score + rng.normal(size=shape[-2:]) + rng.normal(size=shape[-1])
      signs = np.where(rng.random(shape[-2:]) < 0.5, 1, -1)
    least = np.sort(score, axis=None)[size - kept]
    codes = np.where(score >= least, signs, 0).astype(np.int8)
    found[f'params/{path}'] = qtensors.TernaryTensor(codes)
  found['params/bias'] = rng.normal(size=500).astype(np.float16)
  return artifact.Artifact('', {}, (1,), {}, (), found, {})


@pytest.mark.parametrize('structured', [False, True])
@pytest.mark.parametrize('now', [0.9, 1.0, 1.3])
@pytest.mark.parametrize('wanted', [0.85, 1.0, 1.1])
def test_the_file_at_the_factor_has_the_wanted_bytes(structured, now, wanted):
  sparsities = {'a': 0.8, 'b': 0.75, 'c': 0.7}
  exported = _draw(sparsities, now, structured)
  data = artifact.dumps(exported)
  wanted_bytes = round(wanted * len(data))
  factor = rate_control.find_density_scale(
    exported, data, sparsities, wanted_bytes
  )
  reached = artifact.dumps(_draw(sparsities, factor, structured))
  assert len(reached) == pytest.approx(wanted_bytes, rel=0.012)
  if wanted == 1:
    assert factor == pytest.approx(now, rel=0.002)


def test_no_more_live_than_make_codes_most_random():
  sparsities = dict.fromkeys(SHAPES, 0.6)
  exported = _draw(sparsities, 1.0, False)
  data = artifact.dumps(exported)
  factor = rate_control.find_density_scale(exported, data, sparsities, 10**6)
  assert 1 / 0.4 - 0.01 < factor <= 1 / 0.4
  # Below the least factor there is nothing to be had either.
  assert rate_control.find_density_scale(exported, data, sparsities, 0) == 0.25


def test_nothing_to_steer():
  zero = qtensors.TernaryTensor(np.zeros((4, 4), np.int8))
  one = qtensors.TernaryTensor(np.ones((4, 4), np.int8))
  for tensor in (zero, one):
    exported = artifact.Artifact('', {}, (1,), {}, (), {'params/a': tensor}, {})
    data = artifact.dumps(exported)
    factor = rate_control.find_density_scale(
      exported, data, {'a': 0.5}, len(data)
    )
    assert 0.25 <= factor <= 2.0


def test_wanted_bytes_are_a_little_below_the_target():
  assert rate_control.get_wanted_bytes(1_237_672, 30.0) == 41_173
  assert rate_control.get_wanted_bytes(1_237_672, 30.0) < 1_237_672 / 30.0
  assert planner.entropy_bytes(16, 8) == 3.0
