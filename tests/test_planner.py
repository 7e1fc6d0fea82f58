"""From a target ratio to a sparsity, held against files that were written."""

import re

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import planner
from hq_jax import tensors

_NETWORKS = {
  'tiny': {'stem': (3, 3, 1, 8), 'head': (8, 10)},
  'small': {'stem': (3, 3, 1, 32), 'conv': (3, 3, 32, 64), 'head': (64, 10)},
  'wide': {'a': (512, 512), 'b': (3, 3, 64, 128), 'head': (512, 100)},
}


def _entropy(counts):
  """Bits of all symbols: the sum of -log2 p."""
  p = np.array([c for c in counts if c], np.float64) / sum(counts)
  return -sum(counts) * (p * np.log2(p)).sum()


def test_entropy_literals():
  assert planner.entropy_bytes(16, 8) == 3.0  # 1 + 1/2 bits each
  assert planner.entropy_bytes(64, 64) == 8.0  # signs alone
  assert planner.entropy_bytes(64, 0) == 0.0
  # Two thirds non-zero: -1, 0 and 1 are equally frequent, log2(3) bits.
  assert planner.entropy_bytes(24, 16) == pytest.approx(3 * np.log2(3))
  # 85% zeros are 0.760 bits, 75.6 kB per 800,000 codes.
  assert planner.entropy_bytes(8000, 1200) == pytest.approx(760, abs=0.5)


@pytest.mark.parametrize('size', [2, 10, 1000])
def test_entropy_is_that_of_three_symbols(size):
  for num_nonzero in range(0, size + 1, 2):
    half = num_nonzero // 2
    wanted = _entropy([size - num_nonzero, half, half]) / 8
    found = planner.entropy_bytes(size, num_nonzero)
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert type(found) is float


def _make(shapes, sparsity, seed=0):
  """An artifact with exactly so many zeros, and signs drawn at random."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in shapes.items():
    size = int(np.prod(shape))
    # As `ternary.num_kept`, in float32.
    kept = np.round((np.float32(1) - np.float32(sparsity)) * np.float32(size))
    kept = int(np.clip(kept, 1, size))
    codes = np.zeros(size, np.int8)
    codes[:kept] = rng.choice(np.array([-1, 1], np.int8), kept)
    codes = rng.permutation(codes).reshape(shape)
    # The same values at every sparsity: fixed bytes.
    fixed = np.random.default_rng(1).normal(size=(2, shape[-1]))
    scale = fixed[0].astype(np.float16)
    found[f'params/{name}/kernel'] = tensors.TernaryTensor(codes, scale)
    found[f'params/{name}/bias'] = fixed[1].astype(np.float16)
  classes = tuple('0123456789')
  return artifact.Artifact('net', {}, (8, 8, 1), {}, classes, found, {})


def _measure(shapes):
  """Sizes, and the bytes besides the codes, of a file of this layout."""
  probe = _make(shapes, 0.5, seed=2)
  codes = [
    tensor.codes
    for tensor in probe.tensors.values()
    if isinstance(tensor, tensors.TernaryTensor)
  ]
  entropy = sum(
    planner.entropy_bytes(c.size, int(np.count_nonzero(c))) for c in codes
  )
  sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
  return sizes, len(artifact.dumps(probe)) - int(entropy)


@pytest.mark.parametrize('sparsity', [1 / 3, 0.5, 0.75, 0.85, 0.9, 0.97, 0.995])
@pytest.mark.parametrize('name', _NETWORKS)
def test_a_prediction_is_hardly_above_the_file(name, sparsity):
  sizes, fixed_bytes = _measure(_NETWORKS[name])
  predicted = planner.predict_bytes(sizes, fixed_bytes, sparsity)
  for seed in range(3):
    written = len(artifact.dumps(_make(_NETWORKS[name], sparsity, seed)))
    assert written <= predicted
    # The entropy of a tiny network's signs varies by a few bytes.
    assert predicted - written <= 0.001 * written + 24


@pytest.mark.parametrize('ratio', [18.0, 20.0, 30.0, 40.0])
@pytest.mark.parametrize('name', ['small', 'wide'])
def test_a_file_at_the_planned_sparsity_reaches_the_ratio(name, ratio):
  sizes, fixed_bytes = _measure(_NETWORKS[name])
  dense_bytes = 4 * sum(
    int(np.prod(shape)) + 4 * shape[-1] for shape in _NETWORKS[name].values()
  )
  plan = planner.plan_uniform(
    sizes,
    fixed_bytes=fixed_bytes,
    dense_bytes=dense_bytes,
    target_ratio=ratio,
  )
  written = len(artifact.dumps(_make(_NETWORKS[name], plan.sparsity)))
  assert plan.dense_bytes == dense_bytes
  assert written <= plan.predicted_bytes <= dense_bytes / ratio
  assert plan.predicted_bytes <= 1.01 * written
  # It is the least sparsity: fewer zeros by a thousandth miss the target.
  less = planner.predict_bytes(sizes, fixed_bytes, plan.sparsity - 1e-3)
  assert plan.sparsity == 1 / 3 or less > int(dense_bytes / ratio)


@pytest.mark.parametrize(
  ('bits', 'sparsity'),
  [(1.181, 0.7), (0.922, 0.8), (0.760, 0.85), (0.569, 0.9)],
)
def test_zeros_of_a_large_network(bits, sparsity):
  plan = planner.plan_uniform(
    {'a': 10_000_000},
    fixed_bytes=0,
    dense_bytes=40_000_000,
    target_ratio=32 / bits,
  )
  assert plan.sparsity == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize('ratio', [1.5, 10.0, 19.0])
def test_a_small_ratio_takes_a_third_of_zeros(ratio):
  plan = planner.plan_uniform(
    {'a': 100_000}, fixed_bytes=500, dense_bytes=400_000, target_ratio=ratio
  )
  assert plan.sparsity == 1 / 3
  assert plan.predicted_bytes == planner.predict_bytes(
    {'a': 100_000}, 500, 1 / 3
  )


def test_predictions_never_rise_with_more_zeros():
  sizes = {'a': 5, 'b': 1234, 'c': 40_000}
  found = [
    planner.predict_bytes(sizes, 100, s) for s in np.linspace(1 / 3, 0.999, 99)
  ]
  assert (np.diff(found) <= 0).all()
  assert found[-1] >= 100


def test_a_kernel_keeps_one_weight_at_least():
  # One of four: 2 bits for its place, and one bit of sign, in 7 codes.
  bits = _entropy([6, 1]) + 1
  found = planner.predict_bytes({'a': 7}, 1000, 0.999)
  assert found == 1000 + int(np.ceil(bits / 8 * 1.0005)) + 16


@pytest.mark.parametrize(
  ('fixed_bytes', 'ratio'), [(500, 400.0), (9_000, 30.0), (50_000, 10.0)]
)
def test_an_impossible_ratio_is_refused_in_bytes(fixed_bytes, ratio):
  sizes, dense_bytes = {'a': 60_000}, 240_000
  arguments = {'fixed_bytes': fixed_bytes, 'dense_bytes': dense_bytes}
  with pytest.raises(ValueError) as caught:
    planner.plan_uniform(sizes, **arguments, target_ratio=ratio)
  least = planner.predict_bytes(sizes, fixed_bytes, 0.995)
  most = re.search(r'wanted a ratio of at most ([\d.]+)$', str(caught.value))
  assert str(caught.value).startswith(
    f'target_ratio is {ratio:g}, which leaves {int(240_000 / ratio):,} bytes of'
    f' 240,000; header, scales and norms alone take {fixed_bytes:,}, and codes'
    f' with 99.5% zeros {least - fixed_bytes:,} more, wanted'
  )
  # What it wants is what it takes, and hardly more is refused.
  best = float(most[1])
  plan = planner.plan_uniform(sizes, **arguments, target_ratio=best)
  assert dense_bytes / plan.predicted_bytes >= best
  with pytest.raises(ValueError, match='target_ratio'):
    planner.plan_uniform(sizes, **arguments, target_ratio=best + 0.1)
