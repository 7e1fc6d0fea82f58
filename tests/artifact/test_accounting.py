import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import accounting
from hq_jax.artifact import format as container
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def test_apportion_by_hand():
  assert accounting.apportion(10, [3, 1]) == [8, 2]  # 7.5 rounds to even
  assert accounting.apportion(7, [0, 0]) == [0, 7]
  assert accounting.apportion(7, [1, 0]) == [7, 0]
  assert accounting.apportion(0, [1, 2]) == [0, 0]
  assert accounting.apportion(0, []) == []


@hypothesis.given(
  st.integers(0, 10**9), st.lists(st.floats(0, 1e9), min_size=1, max_size=20)
)
def test_apportion_adds_up(total, shares):
  parts = accounting.apportion(total, shares)
  assert sum(parts) == total
  if sum(shares) > 0:
    for part, share in zip(parts, shares, strict=True):
      assert abs(part - total * (share / sum(shares))) < 1.001


def _draw_evenly(num_rows):
  """Codes of four columns, half zeros in each row and, in all, each column."""
  rows = [np.roll([0, 1, 0, -1], i) for i in range(num_rows)]
  return np.array(rows, np.int8)


def test_sizes_by_hand():
  # Half zeros and a quarter of each sign: 2 layers of 400 codes, 1.5 bits
  # each, 150 bytes in all; one layer of one symbol, which costs nothing.
  codes = _draw_evenly(100)
  found = {
    'params/a': qtensors.TernaryTensor(codes),
    'params/b': qtensors.TernaryTensor(codes, np.ones((1, 4), np.float32)),
    'params/c': qtensors.TernaryTensor(np.ones((9, 4), np.int8)),
    'params/d': np.zeros(3, np.int32),
  }
  ranges = 6.0, 0.5, 8.0
  data = artifact.dumps(EMPTY._replace(tensors=found, activation_ranges=ranges))
  parts = artifact.sizes(data)
  assert sum(parts.values()) == len(data)
  assert set(parts) == {
    *('preamble', 'header', 'ternary_codes', 'model_tables'),
    *('scales', 'int32', 'activation_ranges'),
  }
  # Guard, version and count; five sections; checksum.
  assert parts['preamble'] == 12 + 5 * 12 + 4
  assert parts['activation_ranges'] == 3 * 2
  assert parts['model_tables'] == 3 * 5
  assert 153 <= parts['ternary_codes'] <= 156  # with the first state
  assert parts['scales'] >= 12
  rows = {row.path: row for row in artifact.layers(data)}
  stream = parts['ternary_codes']
  assert rows['params/a'].num_bytes == 5 + round(stream / 2)
  assert rows['params/c'].num_bytes == 5
  assert rows['params/d'].num_bytes == parts['int32']
  row = rows['params/b']
  assert row.num_bytes == 5 + stream - round(stream / 2) + parts['scales']
  assert row.shape == (100, 4) and row.encoding == 't4'
  assert row.zeros == 0.5 and row.entropy_bits == 1.5
  assert row.bits == row.num_bytes * 8 / 400
  assert rows['params/d'].entropy_bits is None


def test_scales_share_a_section_with_other_tensors():
  kernel = qtensors.TernaryTensor(
    np.ones((2, 30), np.int8), np.ones((1, 30), np.float16)
  )
  found = {'k': kernel, 'x': np.ones(10, np.float16)}
  data = artifact.dumps(EMPTY._replace(tensors=found))
  parts = artifact.sizes(data)
  body = len(container.unpack(data)['TF16'])
  assert parts['scales'] + parts['float16'] == body
  assert parts['scales'] == pytest.approx(body * 0.75, abs=0.5)


def test_layers_of_a_stack_share_their_row():
  codes = np.tile(_draw_evenly(100), (3, 1, 1))
  scale = np.ones((3, 1, 4), np.float32)
  found = {
    'a': qtensors.TernaryTensor(codes, scale),
    'b': qtensors.TernaryTensor(codes[0], scale[0]),
  }
  data = artifact.dumps(EMPTY._replace(tensors=found))
  parts = artifact.sizes(data)
  assert parts['model_tables'] == 4 * 5
  a, b = artifact.layers(data)
  shared = parts['preamble'] + parts['header']
  assert a.num_bytes + b.num_bytes == len(data) - shared
  assert a.num_bytes == pytest.approx(3 * b.num_bytes, abs=2)
  assert a.scale_axes == (0, 2) and b.scale_axes is None
  assert a.entropy_bits == 1.5


def test_int8_codes_and_scales_are_attributed():
  rng = np.random.default_rng(0)
  codes = rng.integers(-127, 128, (60, 4)).astype(np.int8)
  codes[::2] = 0
  found = {
    'a': qtensors.Int8Tensor(codes),
    'b': qtensors.Int8Tensor(codes, np.ones(4, np.float16)),
    'c': qtensors.Int8Tensor(codes[:, 0], np.ones(1, np.float32)),
    'd': codes[:, 1],
  }
  data = artifact.dumps(EMPTY._replace(tensors=found))
  parts = artifact.sizes(data)
  bodies = {k: len(v) for k, v in container.unpack(data).items()}
  assert parts['int8'] == bodies['TI08']
  assert parts['scales'] == bodies['TF16'] + bodies['TF32']
  assert sum(parts.values()) == len(data)
  rows = {row.path: row for row in artifact.layers(data)}
  shared = parts['preamble'] + parts['header']
  assert sum(row.num_bytes for row in rows.values()) == len(data) - shared
  assert [row.encoding for row in rows.values()] == ['q', 'q2', 'q4', 'i1']
  # 240, 240, 60 and 60 codes: 0.4, 0.4, 0.1 and 0.1 of their section.
  share = 0.4 * bodies['TI08']
  assert rows['a'].num_bytes == pytest.approx(share, abs=1)
  assert rows['b'].num_bytes == pytest.approx(share + bodies['TF16'], abs=1)
  assert rows['c'].num_bytes == pytest.approx(share / 4 + bodies['TF32'], abs=1)
  assert rows['a'].zeros == np.mean(codes == 0) >= 0.5
  assert rows['a'].entropy_bits is None
