"""Bytes and distances of a kernel, against definitions in float64."""

import math

import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import byte_planes
from hq_jax.compression import rate_control
from hq_jax.compression.planner import costs
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds


def _entropy(counts):
  """Bits of all symbols: the sum of -log2 p."""
  p = np.array([c for c in counts if c], np.float64) / sum(counts)
  return -sum(counts) * (p * np.log2(p)).sum()


@pytest.mark.parametrize('size', [2, 10, 1000])
def test_entropy_is_that_of_three_symbols(size):
  for num_nonzero in range(0, size + 1, 2):
    half = num_nonzero // 2
    wanted = _entropy([size - num_nonzero, half, half]) / 8
    found = rate_control.entropy_bytes(size, num_nonzero)
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert type(found) is float


def test_bytes_never_rise_with_more_zeros():
  for size in (5, 1234, 40_000):
    found = [
      costs.ternary_bytes(size, s) for s in np.linspace(1 / 3, 0.9999, 99)
    ]
    assert (np.diff(found) <= 0).all()
    assert found[-1] > 0


def test_a_kernel_keeps_one_weight_at_least():
  # One of seven, and one bit of sign.
  wanted = (_entropy([6, 1]) + 1) / 8
  assert costs.ternary_bytes(7, 0.999) == pytest.approx(wanted)


def _distance(w, kept):
  """The definition: rank all, then look at each channel."""
  w = np.float64(w).reshape(-1, w.shape[-1])
  norms = np.linalg.norm(w, axis=0)
  u = np.abs(w) / np.where(norms > 0, norms, 1)
  order = sorted(range(u.size), key=lambda i: (-np.float32(u.flat[i]), i))
  keep = np.zeros(u.size, bool)
  keep[order[:kept]] = True
  keep = keep.reshape(u.shape)
  distances = []
  for j in range(u.shape[1]):
    k = keep[:, j].sum()
    distances.append(1 - (u[keep[:, j], j].sum() / np.sqrt(k) if k else 0))
  return np.mean(distances)


@pytest.mark.parametrize('kind', ['gaussian', 'ties', 'zero channel', 'tiny'])
def test_distances_are_those_of_the_definition(rng, kind):
  w = rng.standard_normal((3, 3, 4, 6)).astype(np.float32)
  if kind == 'ties':
    w = np.float32(np.rint(w))
  elif kind == 'zero channel':
    w[..., 2] = 0
  elif kind == 'tiny':
    w = w[:1, :1, :1, :2] * np.float32(1e-20)
  found = costs.measure(w).ternary
  assert found.shape == costs.SPARSITIES.shape
  for i in range(0, len(found), 8):
    kept = max(1, round((1 - costs.SPARSITIES[i]) * w.size))
    assert found[i] == pytest.approx(_distance(w, kept), abs=1e-6), i


@pytest.mark.slow
@pytest.mark.parametrize('sparsity', [0.5, 0.85])
def test_distances_are_those_of_training(rng, sparsity):
  w = rng.standard_normal((3, 3, 8, 16)).astype(np.float32)
  threshold = thresholds.get_thresholds({'w': w}, sparsity)['w']
  value = ternary.dequantize(ternary.ternarize(w, threshold))
  found = np.interp(sparsity, costs.SPARSITIES, costs.measure(w).ternary)
  wanted = sphere.cosine_distance(w, value).mean()
  assert found == pytest.approx(float(wanted), abs=1e-3)


def test_gaussian_distances_are_the_integral():
  # cos = sum of abs(x) over what is kept / sqrt(kept), in 1e6 steps.
  x = np.linspace(0, 10, 1_000_001)
  density = np.exp(-(x**2) / 2) * math.sqrt(2 / math.pi) * 1e-5
  kept = np.cumsum(density[::-1])[::-1]
  total = np.cumsum((density * x)[::-1])[::-1]
  wanted = 1 - total / np.sqrt(kept)
  found = costs.gaussian_distances()
  np.testing.assert_allclose(
    found,
    np.interp(costs.SPARSITIES, 1 - kept, wanted),
    atol=1e-4,
  )
  at = lambda s: np.interp(s, costs.SPARSITIES, found)
  assert at(0.85) == pytest.approx(0.27, abs=0.005)
  assert costs.SPARSITIES[np.argmin(found)] == pytest.approx(0.46, abs=0.02)


def test_a_shape_counts_as_gaussian(rng):
  shape = (3, 3, 128, 128)
  drawn = costs.measure(rng.standard_normal(shape).astype(np.float32))
  known = costs.measure(jax.ShapeDtypeStruct(shape, np.float32))
  dense = costs.SPARSITIES < 0.98
  np.testing.assert_allclose(
    known.ternary[dense], drawn.ternary[dense], atol=2e-3
  )
  for name in ('int8', 'float16'):
    a, b = getattr(known, name), getattr(drawn, name)
    assert a.num_bytes == pytest.approx(b.num_bytes, rel=0.01)
    assert a.cosine_distance == pytest.approx(b.cosine_distance, rel=0.1)


@pytest.mark.parametrize('shape', [(3, 3, 1, 512), (3, 3, 64, 64), (512, 100)])
def test_bytes_are_those_of_the_file(rng, shape):
  w = rng.standard_normal(shape).astype(np.float32)
  found = costs.measure(w)
  codes = artifact.quantize_int8(w).codes
  assert found.size == w.size
  for cost, encoded in (
    (found.int8, codes),
    (found.float16, w.astype(np.float16)),
  ):
    written = len(byte_planes.encode(encoded.ravel()))
    assert cost.num_bytes == pytest.approx(written, rel=0.015)
    value = np.float64(encoded)
    dot = lambda a, b: (np.float64(a) * b).sum(axis=tuple(range(w.ndim - 1)))
    cosine = dot(w, value) / np.sqrt(dot(w, w) * dot(value, value))
    assert cost.cosine_distance == pytest.approx(
      float(1 - cosine.mean()), rel=1e-6, abs=1e-12
    )
  assert 0.85 < found.int8.num_bytes / w.size < 0.97


def test_what_float16_cannot_hold_counts_as_float32():
  w = np.array([[1e6, 1.0], [2.0, 3.0]], np.float32)
  found = costs.measure(w).float16
  assert found.cosine_distance == pytest.approx(0, abs=1e-12)
  assert found.num_bytes > 3 * w.size
