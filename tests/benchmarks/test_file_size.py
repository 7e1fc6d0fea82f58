import itertools
import math

import numpy as np
import pytest

from benchmarks import file_size
from hq_jax import artifact
from hq_jax.artifact import ternary_coder
from tests import markdown


def _size(shapes):
  return sum(map(math.prod, shapes.values()))


def test_kernels_are_those_of_the_networks():
  # All parameters, less the norms' and the classifiers' biases.
  assert _size(file_size.get_resnet_shapes(18)) == 11_689_512 - 9_600 - 1_000
  assert _size(file_size.get_resnet_shapes(50)) == 25_557_032 - 53_120 - 1_000
  assert _size(file_size.get_mobilenet_shapes()) == 3_504_872 - 34_112 - 1_000


@pytest.mark.parametrize('spread', [0.0, 0.5])
def test_codes_have_their_zeros_and_their_spread(spread):
  shapes = {'a': (3, 3, 200, 60), 'b': (1000, 50)}
  codes = file_size.draw_codes(shapes, 0.85, spread, np.random.default_rng(0))
  for path, shape in shapes.items():
    assert codes[path].shape == shape and codes[path].dtype == np.int8
    assert np.mean(codes[path] == 0) == pytest.approx(0.85, abs=0.01)
    assert abs(np.mean(codes[path])) < 0.01
    dense = np.mean(codes[path] != 0, axis=tuple(range(len(shape) - 1)))
    log_odds = np.log(dense / (1 - dense))
    assert np.std(log_odds) == pytest.approx(spread, abs=0.15)


def test_entropy_is_the_coders_own():
  rng = np.random.default_rng(1)
  codes = file_size.draw_codes({'a': (50, 40), 'b': (9, 7)}, 0.7, 0.0, rng)
  expected = sum(
    c.size * ternary_coder.entropy_bits(ternary_coder.count(c))
    for c in codes.values()
  )
  assert file_size.entropy_bytes(codes) == pytest.approx(expected / 8)
  assert file_size.entropy_bytes({'a': np.zeros((3, 2), np.int8)}) == 0


@pytest.mark.parametrize('per_byte', [4, 5])
def test_packing_loses_nothing(per_byte):
  every = np.array(list(itertools.product([-1, 0, 1], repeat=5)), np.int8)
  codes = {'a': every, 'b': every[:, :2]}
  packed = file_size.pack(codes, per_byte)
  assert len(packed) == -(-every.size * 7 // 5 // per_byte)
  base = {4: 4, 5: 3}[per_byte]
  digits = [
    byte // base**place % base
    for byte in packed
    for place in reversed(range(per_byte))
  ]
  flat = np.concatenate([every.ravel(), every[:, :2].ravel()]) + 1
  assert digits[: len(flat)] == flat.tolist()


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_row_and_table(tmp_path):
  rng = np.random.default_rng(2)
  codes = file_size.draw_codes({'a/k': (3, 3, 16, 32)}, 0.8, 0.0, rng)
  row = file_size.compare('net', codes)
  assert row['codes'] == 9 * 16 * 32
  data = artifact.dumps(file_size.make_artifact(codes))
  assert row['ours'] == len(data)
  found = artifact.loads(data).tensors['params/a/k'].codes
  np.testing.assert_array_equal(found, codes['a/k'])
  assert row['entropy'] < row['ours'] < row['entropy'] + 300
  assert row['entropy'] < row['zstd'] < len(file_size.pack(codes, 4)) + 20
  assert row['entropy'] < min(row['brotli'], row['xz'], row['orbax'])
  table = file_size.make_table([row | {'entropy': 1000.0, 'ours': 1010}])
  ((_, cells),) = markdown.read_tables(table)
  assert cells[:5] == ['net', '4,608', '1,000', '1,010', '1.0100']
  path = tmp_path / 'a.hq'
  path.write_bytes(data)
  assert list(file_size.load_trained(str(path))) == ['a/k']


@pytest.mark.slow
def test_a_process_of_its_own_measures():
  codes = {'k': np.ones((9, 512), np.int8)}
  found = file_size.measure_alone(codes, 1)
  assert found['read_peak_bytes'] < 50e6
  assert found['write_seconds'] > 0 and found['read_seconds'] > 0
