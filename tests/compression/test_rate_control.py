"""The density that fills the bytes of a target, on real files."""

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.compression import rate_control
from hq_jax.core import qtensors
from hq_jax.core import sparsity_distributions

SHAPES = {'a': (3, 3, 24, 48), 'b': (1, 1, 48, 96), 'c': (96, 40)}


def _make_artifact(codes):
  tensors = {
    f'params/{path}': qtensors.TernaryTensor(x) for path, x in codes.items()
  }
  tensors['params/bias'] = np.linspace(-3, 3, 500).astype(np.float16)
  return artifact.Artifact('', {}, (1,), {}, (), tensors, {})


def _draw(sparsities, scale, structured):
  """Codes of scaled densities, as training would leave them."""
  rng = np.random.default_rng(0)
  found = {}
  for path, shape in SHAPES.items():
    size = np.prod(shape)
    zeros = sparsity_distributions.scale_density(sparsities[path], scale)
    score = rng.normal(size=shape)
    signs = np.where(rng.random(shape) < 0.5, 1, -1)
    if structured:
      score = score + rng.normal(size=shape[-2:]) + rng.normal(size=shape[-1])
      signs = np.where(rng.random(shape[-2:]) < 0.5, 1, -1)
    least = np.sort(score, axis=None)[round(zeros * size)]
    found[path] = np.where(score >= least, signs, 0).astype(np.int8)
  return _make_artifact(found)


@pytest.mark.parametrize('structured', [False, True])
@pytest.mark.parametrize('now', [0.9, 1.0, 1.3])
@pytest.mark.parametrize('wanted', [0.85, 1.0, 1.1])
def test_the_file_at_the_scale_has_the_wanted_bytes(structured, now, wanted):
  sparsities = {'a': 0.8, 'b': 0.75, 'c': 0.7}
  exported = _draw(sparsities, now, structured)
  data = artifact.dumps(exported)
  wanted_bytes = round(wanted * len(data))
  scale = rate_control.find_density_scale(
    exported, data, sparsities, wanted_bytes
  )
  reached = artifact.dumps(_draw(sparsities, scale, structured))
  assert len(reached) == pytest.approx(wanted_bytes, rel=0.012)
  if wanted == 1:
    assert scale == pytest.approx(now, rel=0.002)


@pytest.mark.parametrize('structured', [False, True])
@pytest.mark.parametrize(
  'sparsities',
  [
    {'a': 0.46, 'b': 0.46, 'c': 0.46},
    {'a': 0.85, 'b': 0.46, 'c': 1 / 3},
    {'a': 0.85, 'b': 0.5, 'c': 0.0},
  ],
  ids=['equal', 'unlike', 'dense'],
)
@pytest.mark.parametrize('more', [0.99, 1.0, 1.02, 1.1, 50.0])
def test_what_cannot_be_filled_has_a_third_of_zeros(
  structured, sparsities, more
):
  """From plan to plan: a file never loses all its zeros, nor comes to swing."""
  full = artifact.dumps(_draw(sparsities, 99.0, structured))
  wanted = int(more * len(full))
  scale, sizes = 1.0, []
  for _ in range(6):
    exported = _draw(sparsities, scale, structured)
    data = artifact.dumps(exported)
    sizes.append(len(data))
    scale = rate_control.find_density_scale(exported, data, sparsities, wanted)
    for path, sparsity in sparsities.items():
      codes = exported.tensors[f'params/{path}'].codes
      assert np.mean(codes == 0) >= min(sparsity, 1 / 3) - 1 / codes.size
  if more > 1.01:
    assert data == full
  # Near its most a file hardly grows with the density.
  assert sizes[-1] == pytest.approx(min(wanted, len(full)), rel=0.012)
  assert sizes[-1] == pytest.approx(sizes[-2], rel=0.005)


def test_the_least_and_the_most():
  sparsities = dict.fromkeys(SHAPES, 0.6)
  exported = _draw(sparsities, 1.0, False)
  data = artifact.dumps(exported)
  find = lambda wanted: rate_control.find_density_scale(
    exported, data, sparsities, wanted
  )
  assert find(10**6) == pytest.approx(2 / 3 / 0.4)
  assert find(0) == 0.25


@pytest.mark.parametrize('codes', [np.zeros, np.ones])
@pytest.mark.parametrize('shape', [(1, 1), (4, 4)])
def test_codes_that_take_no_bytes(codes, shape):
  exported = _make_artifact({'a': codes(shape, np.int8)})
  data = artifact.dumps(exported)
  scale = rate_control.find_density_scale(exported, data, {'a': 0.5}, len(data))
  assert 0.25 <= scale <= 4 / 3


def test_wanted_bytes_are_a_little_below_the_target():
  assert rate_control.get_wanted_bytes(1_237_672, 30.0) == 41_173


@pytest.mark.parametrize(
  ('takes', 'wanted'),
  [
    (lambda budget: budget, 1000),
    (lambda budget: budget * 0.9, 998),
    (lambda budget: budget * 1.1, 998),
    (lambda budget: budget + 40, 1000),
    (lambda budget: min(budget, 600), 600),  # There is no larger one.
    (lambda budget: max(budget, 1200), 1200),  # Nor one that fits.
    (lambda budget: 1300 if budget > 1100 else 700, 700),
  ],
)
def test_the_largest_file_that_fits(takes, wanted):
  def make(size):
    noise = np.frombuffer(np.random.default_rng(0).bytes(size), np.int8)
    return artifact.Artifact('', {}, (1,), {}, (), {'noise': noise}, {})

  rest = len(artifact.dumps(make(500))) - 500
  encode = lambda budget: make(round(takes(budget)) - rest)
  exported, num_bytes = rate_control.fit(encode, 1000, 1000, min_fill=0.99)
  assert len(artifact.dumps(exported)) == num_bytes
  assert num_bytes == pytest.approx(wanted, abs=8)


def test_the_least_number_that_fits():
  for limit in (0.0, 0.3, 1 / 3, 1.0):
    found = rate_control.find_least(lambda x, y=limit: x >= y, 0.0, 1.0)
    assert limit <= found <= limit + 1e-11
  assert rate_control.find_least(lambda x: False, 0.0, 1.0) == 1.0
