"""The coder of indices: literals by hand, costs, hostile streams."""

import time

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import index_coder
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def _draw(kind, size, number):
  """Indices as scalar levels, clusters and rare codewords have them."""
  ranks = np.arange(size)
  likely = {
    'even': np.ones(size),
    'bell': np.exp(-(np.linspace(-2.5, 2.5, size) ** 2) / 2),
    'steep': 1 / (1 + ranks),
  }[kind]
  rng = np.random.default_rng(size)
  drawn = rng.choice(size, number, p=likely / likely.sum())
  return drawn.astype(np.uint8)


@pytest.mark.parametrize('size', [2, 3, 256])
def test_frequencies_are_a_distribution(size):
  rng = np.random.default_rng(size)
  for most in (1, 100, 10**6, (1 << 31) // size):
    for counts in (rng.integers(0, most + 1, size), np.eye(size)[-1] * most):
      found = index_coder.get_frequencies(counts.astype(np.int64))
      assert found.sum() == 1 << 24
      assert 1 <= found.min() <= found.max() <= index_coder.MAX_FREQUENCY


@pytest.mark.parametrize('kind', ['even', 'bell', 'steep'])
@pytest.mark.parametrize('size', [2, 16, 256])
def test_cost_is_near_the_entropy(kind, size):
  for times, more in ((20, 16 + 0.35 * size), (100, 16)):
    drawn = _draw(kind, size, times * size)
    least = (
      drawn.size
      * ternary_coder.entropy_bits(index_coder.count(drawn, size))
      / 8
    )
    stream = index_coder.encode([drawn], [size])
    assert least - 4 < len(stream) < 1.01 * least + more
    bits = index_coder.tensor_bits(drawn, size)
    assert bits / 8 <= len(stream) <= bits / 8 + 8
    assert np.array_equal(
      index_coder.decode(stream, [size], [drawn.shape])[0], drawn
    )


def test_tensors_share_a_stream():
  given = [
    _draw('steep', 256, 2000).reshape(5, 400),
    np.zeros((3, 4), np.uint8),
    _draw('even', 2, 100_000),  # a block that takes two calls
    np.zeros((2, 0), np.uint8),
  ]
  sizes = [256, 1, 2, 7]
  stream = index_coder.encode(given, sizes)
  found = index_coder.decode(stream, sizes, [tensor.shape for tensor in given])
  for tensor, decoded in zip(given, found, strict=True):
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, tensor)


def test_no_index_is_free():
  given = np.zeros(1 << 20, np.uint8)
  stream = index_coder.encode([given], [2])
  # log2(2^24 / MOST) = 0.003924 bits each, once they are known to be so likely.
  assert len(stream) == pytest.approx(given.size * 0.003924 / 8, rel=0.05)
  assert not index_coder.decode(stream, [2], [given.shape])[0].any()


@pytest.mark.parametrize('size', [2, 200])
def test_other_streams_are_refused(size):
  given = _draw('bell', size, 5000)
  stream = index_coder.encode([given], [size])
  refused = [
    stream + b'\0',
    stream + b'\1',
    stream[:-1],
    stream[4:],
    stream * 2,
    b'',
    bytes(4) + b'\1',  # what an empty one stands for
  ]
  for other in refused:
    with pytest.raises(ValueError, match='indices: '):
      index_coder.decode(other, [size], [given.shape])
  for shape in ((4999,), (5001,)):
    with pytest.raises(ValueError, match='holds more than the codes'):
      index_coder.decode(stream, [size], [shape])


@pytest.mark.parametrize(
  ('sizes', 'shapes', 'message'),
  [
    ([2], [(1 << 31,)], '2147483648 of 1 tensors in a stream of 100 bytes'),
    ([2] * 100, [(32,)] * 100, '3200 of 100 tensors'),
    ([256], [(3,)], 'holds more than the codes'),
  ],
)
def test_work_is_bounded_by_the_stream(sizes, shapes, message):
  start = time.process_time()
  with pytest.raises(ValueError, match=message):
    index_coder.decode(b'\1' * 100, sizes, shapes)
  assert time.process_time() - start < 0.1


def test_sizes_of_a_file_by_hand():
  drawn = _draw('even', 16, 640).reshape(4, 160)
  book = np.arange(64, dtype=np.float16).reshape(16, 4)
  kernels = {
    'params/a': qtensors.CodebookTensor(drawn, book),
    'params/b': qtensors.CodebookTensor(
      np.zeros((2, 3), np.uint8),
      np.array([[0, 2]], np.float16),
      np.ones(3, np.float32),
    ),
  }
  data = artifact.dumps(EMPTY._replace(tensors=kernels))
  parts = artifact.sizes(data)
  assert sum(parts.values()) == len(data)
  # 320 bytes at four bits each, and what it takes to know that.
  assert 318 < parts['indices'] < 330
  assert 66 <= parts['codewords'] <= 132  # 66 float16, half of them deflated
  assert 9 <= parts['scales'] <= 20
  first, second = artifact.layers(data)
  assert first.shape == (16, 160)
  assert first.encoding == 'c2'
  assert first.zeros == pytest.approx(np.mean(drawn == 0) / 4)
  assert 3.9 < first.entropy_bits <= 4
  assert second.shape == (4, 3)
  assert second.encoding == 'c24'
  assert second.zeros == 0.5
  assert second.entropy_bits == 0
  codewords, scales = parts['codewords'], parts['scales']
  assert second.num_bytes == round(codewords * 2 / 66) + scales
  assert first.num_bytes == len(data) - second.num_bytes - (
    parts['preamble'] + parts['header']
  )
