import tracemalloc

import numpy as np
import pytest

from hq_jax.artifact import byte_planes


def test_planes_by_hand():
  values = np.array([1.0, -1.5, 2.25], np.float16)  # 3c00, be00, 4080
  body = byte_planes.encode(values)
  assert body[:3] == b'\x00\x00\x80'
  assert byte_planes.inflate(body[3:], 3) == b'\x3c\xbe\x40'
  wide = byte_planes.encode(np.array([0x01020304, 0x05060708], np.int32))
  assert wide[:6] == b'\x04\x08\x03\x07\x02\x06'
  assert byte_planes.inflate(wide[6:], 2) == b'\x01\x05'


def test_big_endian_input_gives_the_same_bytes():
  values = np.array([1.5, -3], np.float32)
  assert byte_planes.encode(values.astype('>f4')) == byte_planes.encode(values)


@pytest.mark.parametrize('size', [0, 1, 3, 5])
def test_decode_refuses_another_size(size):
  body = byte_planes.encode(np.array([1.5, 2.5, 3.5, 4.5], np.float16))
  with pytest.raises(ValueError):
    byte_planes.decode(body, np.dtype(np.float16), size)


def test_inflate_refuses_cut_and_longer_streams():
  stream = byte_planes.deflate(b'hyperspherical')
  for end in range(len(stream)):
    with pytest.raises(ValueError):
      byte_planes.inflate(stream[:end], 14)
  with pytest.raises(ValueError, match='bytes follow'):
    byte_planes.inflate(stream + b'\0', 14)


def test_inflate_refuses_a_bomb():
  bomb = byte_planes.deflate(bytes(1 << 24))
  assert len(bomb) < 1 << 15
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match='does not hold 10 bytes'):
      byte_planes.inflate(bomb, 10)
    assert tracemalloc.get_traced_memory()[1] < 1 << 17
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
@pytest.mark.parametrize('sizes', [(0,), (3, 0, 70_000), (98_000, 5)])
def test_the_length_of_short_runs_is_exact(rng, sizes, dtype):
  runs = [rng.standard_normal(size).astype(dtype) for size in sizes]
  written = byte_planes.encode(np.concatenate(runs))
  found = byte_planes.predict_length([(run.size, run) for run in runs])
  assert found == len(written)


def test_the_length_of_long_runs_is_near(rng):
  # Each of another size: what they share a block with makes it longer.
  runs = [
    (rng.standard_normal(size) * gain).astype(np.float16)
    for size, gain in ((150_000, 1), (500_000, 64), (1000, 1), (400_000, 1e-3))
  ]
  written = byte_planes.encode(np.concatenate(runs))
  found = byte_planes.predict_length([(x.size, x[:120_000]) for x in runs])
  top = len(written) - sum(run.size for run in runs)
  assert found == pytest.approx(len(written), abs=0.001 * top)


def test_the_length_of_a_long_run_of_zeros():
  zeros = np.zeros(1 << 20, np.float16)
  found = byte_planes.predict_length([(zeros.size, zeros[: 1 << 17])])
  assert found == pytest.approx(len(byte_planes.encode(zeros)), rel=0.001)
