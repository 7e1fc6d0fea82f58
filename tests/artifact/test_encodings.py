"""Int8 and the choice by error: by hand, against float64, at the extremes."""

import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import encodings
from hq_jax.core import qtensors

SHAPES = st_numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1000, 1000, width=32)
LARGEST = float(np.finfo(np.float32).max)


def arrays(elements):
  return st_numpy.arrays(np.float64, SHAPES, elements=elements)


def _rebuild(tensor):
  given = artifact.Artifact('', {}, (), {}, (), {'params/k': tensor}, {})
  read = artifact.loads(artifact.dumps(given))
  return artifact.to_variables(read)['params']['k']


def test_int8_by_hand():
  # Scales 2, 0.5 and none; 1.5, 2.5 and -0.5 of them round to even.
  values = [[-254, 63.5, 0], [3, 0.25, 0], [5, -30, 0], [-1, 0.375, 0]]
  codes, scale = encodings.quantize_int8(values)
  assert codes.dtype == np.int8 and scale.dtype == np.float16
  assert codes.T.tolist() == [[-127, 2, 2, 0], [127, 0, -60, 1], [0] * 4]
  assert scale.tolist() == [2, 0.5, 0]


def test_codes_are_those_of_the_stored_scale():
  # 1 / 127 is 1032.06 * 2^-17, of which float16 keeps 1032. The second value is
  # less than 54.5 of the former and more than 54.5 of the latter.
  stored = 1032 * 2.0**-17
  between = 54.5 * (stored + 1 / 127) / 2
  codes, scale = encodings.quantize_int8([1, between])
  assert scale.tolist() == [stored]
  assert between * 127 < 54.5 < between / stored
  assert codes.tolist() == [127, 55]


@pytest.mark.parametrize(
  ('largest', 'dtype'),
  [
    (127 * 2.0**-14, np.float16),  # the smallest normal number
    (127 * 2.0**-20, np.float16),  # subnormal and exact
    (127 * 2.0**-24 * 1.5, np.float32),  # rounds to twice 2^-24
    (127 * 2.0**-26, np.float32),  # rounds to zero
    (127 * 65504, np.float16),
    (127 * 65530, np.float32),  # rounds to infinity
  ],
)
def test_scales_are_float16_where_that_holds_them(largest, dtype):
  tensor = encodings.quantize_int8([[largest, 254.0]])
  assert tensor.scale.dtype == dtype
  assert tensor.scale.tolist() == [largest / 127, 2]
  assert tensor.codes.tolist() == [[127, 127]]


@hypothesis.given(arrays(FLOATS) | arrays(MODERATE))
def test_int8_against_float64(values):
  tensor = encodings.quantize_int8(values)
  codes, scale = tensor
  channels = values.shape[-1] if values.ndim > 1 else 1
  size = math.prod(values.shape[:-1] if values.ndim > 1 else values.shape)
  columns = values.reshape(size, channels)
  assert codes.shape == values.shape and scale.shape == columns.shape[1:]
  assert scale.dtype in (np.float16, np.float32)
  if codes.size:
    assert codes.min() >= -127 and codes.max() <= 127
  wide = scale.astype(np.float64)
  distance = np.abs(codes.reshape(columns.shape) * wide - columns)
  assert np.all(distance <= 0.5 * wide * (1 + 1e-12))
  for j, column in enumerate(columns.T):
    wanted = np.max(np.abs(column), initial=0) / 127
    assert (scale[j] == 0) == (wanted == 0)
    # The rounding of a normal float16; the steps of float32's subnormals.
    assert abs(wide[j] - wanted) <= 2.0**-11 * wanted + 2.0**-149
  # Finite, also where a reader multiplies in float32: warnings are errors.
  assert np.all(np.isfinite(_rebuild(tensor)))


@pytest.mark.parametrize(
  'largest', [LARGEST, 2.0**-149, 178 * 2.0**-149, 1e-60]
)
def test_int8_at_the_ends_of_the_range(largest):
  values = np.array([[largest], [-largest], [largest / 3], [0]])
  codes, scale = encodings.quantize_int8(values)
  assert np.all(np.abs(codes.astype(int)) <= 127)
  assert codes[0] == -codes[1] and codes[3] == 0
  rebuilt = _rebuild(qtensors.Int8Tensor(codes, scale))
  assert np.all(np.abs(rebuilt - values) <= 2.0**-150 + largest / 250)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ([1, np.nan], 'values: NaN or infinity'),
    ([[1, -np.inf]], 'values: NaN or infinity'),
    ([1e39], 'values: a value is beyond the range of float32'),
  ],
)
def test_what_no_file_holds_is_refused(values, message):
  for function in (
    encodings.quantize_int8,
    lambda values: encodings.encode(values, 1),
    lambda values: encodings.encode_float(values, 1),
  ):
    with pytest.raises(ValueError) as caught:
      function(values)
    assert str(caught.value) == message


def test_int8_needs_an_axis():
  with pytest.raises(ValueError, match='values has no axis, wanted one or'):
    encodings.quantize_int8(3.0)
  assert encodings.encode(3.0, 1).dtype == np.float16


def test_relative_error_by_hand():
  relative_error = encodings.relative_error
  assert relative_error([3.0, 4.0], np.array([3, 4], np.float16)) == 0
  assert relative_error([3.0, 4.0], np.zeros(2)) == 1
  assert relative_error([[3.0], [4]], np.array([[3], [1]], 'f4')) == 0.6
  codes = np.array([[3, 1], [2, 0]], np.int8)
  # 6 2 4 0 instead of 6 2 1 0 by a scale of 2; 3 1 2 0 without.
  values = [[6.0, 2], [1, 0]]
  scale = np.full(2, 2, np.float16)
  assert relative_error(values, qtensors.Int8Tensor(codes, scale)) == (
    pytest.approx(3 / math.sqrt(41), rel=1e-15)
  )
  assert relative_error(values, qtensors.Int8Tensor(codes)) == (
    pytest.approx(math.sqrt(11 / 41), rel=1e-15)
  )


def test_relative_error_at_the_ends_of_the_range():
  relative_error = encodings.relative_error
  assert relative_error(np.zeros(3), np.zeros(3)) == 0
  assert relative_error(np.zeros(0), np.zeros(0)) == 0
  assert relative_error([0.0], np.ones(1)) == math.inf
  assert relative_error([5e-324], np.ones(1)) == math.inf
  for unit in (1e-200, 1e200):
    found = relative_error(np.array([3, 4]) * unit, np.array([3, 1]) * unit)
    assert found == pytest.approx(0.6)
  with pytest.raises(ValueError, match=r'shape \(1,\), wanted \(3,\)'):
    relative_error(np.ones(3), np.ones(1))


def _kind(encoded):
  is_int8 = isinstance(encoded, qtensors.Int8Tensor)
  return 'int8' if is_int8 else encoded.dtype.name


@pytest.mark.parametrize(
  ('max_error', 'kind'),
  [
    (0.01, 'int8'),
    (0.005, 'float16'),
    (1e-4, 'float32'),
    (0, 'float32'),
    (math.inf, 'int8'),
  ],
)
def test_choice_for_gaussian_weights(rng, max_error, kind):
  values = rng.normal(0, 0.05, (3, 3, 64, 32)).astype(np.float32)
  assert _kind(encodings.encode(values, max_error)) == kind
  expected = kind if kind == 'float32' else 'float16'
  assert encodings.encode_float(values, max_error).dtype == expected


@pytest.mark.parametrize(
  ('shape', 'kind'),
  [
    ((1, 40), 'float16'),  # 120 bytes against 80
    ((2, 40), 'float16'),  # 160 bytes against 160
    ((3, 40), 'int8'),  # 200 bytes against 240
    ((2,), 'float16'),  # 4 bytes against 4
    ((3,), 'int8'),  # 5 bytes against 6
    ((), 'float16'),
    ((0, 5), 'float16'),
    ((5, 0), 'float16'),
  ],
)
def test_scales_count(shape, kind):
  assert _kind(encodings.encode(np.ones(shape), 0.5)) == kind


def test_nothing_is_lost_at_a_budget_of_zero():
  exact = np.arange(-127, 128).reshape(51, 5) * 0.5
  exact[0] = 63.5
  encoded = encodings.encode(exact, 0)
  assert _kind(encoded) == 'int8'
  np.testing.assert_array_equal(_rebuild(encoded), exact)
  assert _kind(encodings.encode([1.0, 2.0**-14, 1 + 2.0**-10], 0)) == 'float16'
  assert _kind(encodings.encode([1.0, 1 + 2.0**-11, 3.0], 0)) == 'float32'


def test_values_beyond_float16_never_become_float16():
  # Two values: int8 is not shorter than float16, but shorter than float32.
  assert _kind(encodings.encode([1.0, -65520], math.inf)) == 'int8'
  assert _kind(encodings.encode([1.0, -65520], 1e-6)) == 'float32'
  assert _kind(encodings.encode_float(65520, math.inf)) == 'float32'
  assert _kind(encodings.encode_float(65519, 1)) == 'float16'


@hypothesis.given(arrays(FLOATS) | arrays(MODERATE), st.floats(0, 0.1))
def test_choice_is_the_shortest_within_the_budget(values, max_error):
  found = encodings.encode(values, max_error)
  tensor = encodings.quantize_int8(values)
  with np.errstate(over='ignore'):
    half = values.astype(np.float16)
  lengths = {'float32': 4 * values.size}
  if encodings.relative_error(values, tensor) <= max_error:
    lengths['int8'] = tensor.codes.nbytes + tensor.scale.nbytes
  is_finite = np.all(np.isfinite(half))
  if is_finite and encodings.relative_error(values, half) <= max_error:
    lengths['float16'] = 2 * values.size
  assert lengths[_kind(found)] == min(lengths.values())
  if _kind(found) != 'float32':
    assert encodings.relative_error(values, found) <= max_error
  else:
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize('max_error', [-1e-9, math.nan])
def test_bad_budgets_are_refused(max_error):
  for function in (encodings.encode, encodings.encode_float):
    with pytest.raises(ValueError, match=f'max_error is {max_error}, wanted'):
      function([1.0], max_error)


def test_each_layer_of_a_stack_is_within_the_error():
  rng = np.random.default_rng(0)
  gains = 2.0 ** -np.arange(0, 12, 3)
  values = rng.normal(size=(4, 64)) * gains[:, None]
  # The scale of a column is that of the layer with the largest value in it.
  assert isinstance(encodings.encode(values, 0.01), qtensors.Int8Tensor)
  found = encodings.encode(values, 0.01, (0,))
  assert found.dtype == np.float16
  alike = encodings.encode(values / gains[:, None], 0.01, (0,))
  assert isinstance(alike, qtensors.Int8Tensor)
