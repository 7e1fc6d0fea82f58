"""Fingerprints, against Python integers, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.runtime.checkpoint import fingerprints

P = jax.sharding.PartitionSpec
_slow = lambda value: pytest.param(value, marks=pytest.mark.slow)
_TYPES = (
  *('bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int4'),
  *('float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'complex64'),
)


def _mix(x):
  x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
  x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
  return x ^ (x >> 16)


def _reference(patterns):
  """From the definition, in Python's integers."""
  places = (_mix((b + i * 0x9E3779B9) % 2**32) for i, b in enumerate(patterns))
  return [sum(patterns) % 2**32, sum(places) % 2**32]


def _patterns(array):
  """The bit patterns of a NumPy array, as Python's integers."""
  array = np.asarray(array)
  if array.dtype == np.complex64:
    array = array.reshape(-1).view(np.float32)
  patterns = array.reshape(-1).view(f'u{array.dtype.itemsize}').tolist()
  # NumPy keeps the 4 bits of an int4 in a byte, with its sign.
  return [b & 15 for b in patterns] if array.dtype == jnp.int4 else patterns


def _sums(leaf):
  found = fingerprints.fingerprint(leaf)
  assert found.dtype == np.uint32 and found.shape == (2,)
  return found.tolist()


def _draw(rng, dtype, shape=(3, 5)):
  values = rng.integers(-8, 8, shape)
  return np.asarray(jnp.asarray(values).astype(dtype))


def _flip(array, place, bit):
  """A copy with one bit of one element flipped."""
  array = np.array(array)
  size = array.dtype.itemsize
  array.reshape(-1).view(np.uint8)[place * size + bit // 8] ^= 1 << bit % 8
  return array


@pytest.mark.parametrize('dtype', _TYPES)
def test_it_is_what_the_definition_says(rng, dtype):
  array = _draw(rng, dtype)
  assert _sums(array) == _reference(_patterns(array))


@pytest.mark.parametrize('shape', [(), (0,), (2, 0), (2, 3, 4)])
def test_any_shape_is_taken(rng, shape):
  array = rng.normal(size=shape).astype(np.float32)
  assert _sums(array) == _reference(_patterns(array))


def test_keys_are_taken():
  key = jax.random.key(3)
  assert _sums(key) == _reference([0, 3])
  assert fingerprints.describe({'a': key})['a'][0] == 'key<fry>[]'


def test_every_bit_of_a_nan_counts():
  # Minus zero, and NaNs with something in them.
  bits = np.uint32([0x80000000, 0x7FC00001, 0xFFC12345, 0x7FC00000])
  assert _sums(bits.view(np.float32)) == _reference(bits.tolist())


@pytest.mark.parametrize('dtype', _TYPES)
def test_a_flipped_bit_is_noticed(rng, dtype):
  array = _draw(rng, dtype)
  num_bits = {'bool': 1, 'int4': 4}.get(dtype, 8 * array.dtype.itemsize)
  before = _sums(array)
  for bit in range(num_bits):
    after = _sums(_flip(array, int(rng.integers(array.size)), bit))
    # Each sum alone notices.
    assert after[0] != before[0] and after[1] != before[1], bit


def test_elements_that_change_places_are_noticed(rng):
  codes = rng.integers(-1, 2, (50, 8)).astype(np.int8)
  found = [_sums(rng.permutation(codes.ravel())) for _ in range(100)]
  assert len({plain for plain, _ in found}) == 1
  assert len({placed for _, placed in found}) == 100
  array = rng.normal(size=40).astype(np.float32)
  array[20:] = -array[:20]  # The pairs that products do not tell apart.
  before = _sums(array)
  for i in range(0, 40, 3):
    for j in range(i):
      swapped = array.copy()
      swapped[[i, j]] = array[[j, i]]
      after = _sums(swapped)
      assert after[0] == before[0] and after[1] != before[1], (i, j)


@pytest.mark.parametrize('dtype', ['bfloat16', _slow('bool'), _slow('int8')])
def test_devices_and_shardings_do_not_matter(rng, make_mesh, dtype):
  array = _draw(rng, dtype, (8, 16))
  wanted = _reference(_patterns(array))
  specs = {
    (1,): [P()],
    (4,): [P(), P('d0'), P(None, 'd0')],
    (4, 2): [P('d1', 'd0'), P(('d0', 'd1')), P(None, 'd1')],
  }
  for sizes, found in specs.items():
    for spec in found:
      sharding = jax.sharding.NamedSharding(make_mesh(*sizes), spec)
      sharded = jax.device_put(array, sharding)
      result = fingerprints.fingerprint(sharded)
      assert result.tolist() == wanted
      assert result.sharding.is_fully_replicated


def test_a_sharded_array_is_not_gathered(make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(8), P('d0'))
  array = jax.device_put(jnp.ones((16, 8)), sharding)
  fn = jax.jit(fingerprints.fingerprint)
  text = fn.lower(array).compile().as_text()
  assert 'all-reduce' in text and 'all-gather' not in text


def test_leaves_may_be_on_other_devices():
  first, *_, last = jax.devices()
  tree = [jax.device_put(jnp.arange(3), d) for d in (first, last)]
  one, other = fingerprints.fingerprint(tree)
  assert one.tolist() == other.tolist()


def test_it_is_traced_once_for_a_shape(rng):
  tree = {'a': jnp.ones((7, 11)), 'b': [jnp.zeros((7, 11))]}
  wanted = jax.device_get(fingerprints.fingerprint(tree))
  size = fingerprints._summarize._cache_size()
  for _ in range(3):
    found = fingerprints.fingerprint(tree)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert fingerprints._summarize._cache_size() == size
  jitted = jax.jit(fingerprints.fingerprint)(tree)
  jax.tree.map(np.testing.assert_array_equal, jitted, wanted)


def test_all_is_described():
  tree = {'a': {'b': jnp.zeros((2, 0), jnp.bfloat16)}, 'c': jnp.uint32(7)}
  places = _reference([7])[1]
  assert fingerprints.describe(tree) == {
    'a/b': ['bfloat16[2, 0]', '0' * 16],
    'c': ['uint32[]', f'00000007{places:08x}'],
  }
  shapes = jax.eval_shape(lambda: tree)
  assert fingerprints.describe_types(shapes) == {
    'a/b': 'bfloat16[2, 0]',
    'c': 'uint32[]',
  }
