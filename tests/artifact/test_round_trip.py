"""What is read is what was written, to the bit, whatever it was."""

import json

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import layout
from hq_jax.core import qtensors
from tests.artifact import layers

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})
SHAPES = st_numpy.array_shapes(
  min_dims=1, max_dims=5, min_side=0, max_side=4
) | st.sampled_from(
  [(1,), (1, 1, 1, 1, 1), (3, 3, 3, 5, 7), (2, 0, 3), (1, 31), (129, 1)]
)
# Layers that are coded with contexts where their codes have a structure.
LAYERS = st.sampled_from(
  [(3, 3, 16, 31), (2, 3, 3, 7, 9), (3, 2, 9, 33), (5, 5, 4, 8), (97, 65)]
)
SYMBOLS = [[0], [1], [-1], [-1, 1], [-1, 0], [0, 1], [-1, 0, 1]]
TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=5)
NAMES = TEXT.filter(lambda name: name and '/' not in name)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
PLAIN = st.recursive(
  st.none() | st.booleans() | INTEGERS | NUMBERS | TEXT,
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
  ),
  max_leaves=6,
)


@st.composite
def bit_patterns(draw, dtypes, shapes):
  """Any bits at all: NaNs with payloads, infinities, subnormal numbers."""
  dtype, shape = draw(dtypes), draw(shapes)
  num_bytes = dtype.itemsize * int(np.prod(shape))
  specials = np.array([np.nan, -np.inf, -0.0, 5e-324, 1], dtype='f8')
  if dtype.kind == 'f' and draw(st.booleans()):
    with np.errstate(all='ignore'):
      return np.resize(specials.astype(dtype), shape)
  raw = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
  return np.frombuffer(raw, dtype).reshape(shape)


@st.composite
def scales(draw, size, may_be_one=True):
  kinds = ['f2', 'f4'] + ([None] if may_be_one else [])
  kind = draw(st.sampled_from(kinds))
  if kind is None:
    return None
  return draw(bit_patterns(st.just(np.dtype(kind)), st.just((size,))))


@st.composite
def ternary(draw):
  if draw(st.integers(0, 3)):
    elements = st.sampled_from(draw(st.sampled_from(SYMBOLS)))
    codes = draw(st_numpy.arrays(np.int8, SHAPES, elements=elements))
  else:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = layers.draw(rng, draw(LAYERS))
  last = codes.ndim - 1
  axes = draw(st.sets(st.integers(0, last)) | st.just({last}))
  shape = [n if axis in axes else 1 for axis, n in enumerate(codes.shape)]
  scale = draw(scales(int(np.prod(shape))))
  return qtensors.TernaryTensor(
    codes, None if scale is None else scale.reshape(shape)
  )


@st.composite
def int8(draw):
  elements = st.integers(-127, 127)
  codes = draw(st_numpy.arrays(np.int8, SHAPES, elements=elements))
  is_line = codes.ndim == 1
  scale = draw(scales(1 if is_line else codes.shape[-1], not is_line))
  return qtensors.Int8Tensor(codes, scale)


@st.composite
def codebook(draw):
  size, wide = draw(st.sampled_from([1, 2, 5, 256])), draw(st.integers(1, 3))
  axes = st_numpy.array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=5)
  elements = st.integers(0, size - 1)
  indices = draw(st_numpy.arrays(np.uint8, axes, elements=elements))
  kinds = st.sampled_from([np.dtype('f2'), np.dtype('f4')])
  codewords = draw(bit_patterns(kinds, st.just((size, wide))))
  scale = draw(scales(indices.shape[-1]))
  return qtensors.CodebookTensor(indices, codewords, scale)


DTYPES = st.sampled_from([dtype for _, dtype in layout.DTYPES.values()])
VALUES = bit_patterns(DTYPES, st.just(()) | SHAPES)
TENSORS = ternary() | int8() | codebook() | VALUES
# Short ones, and the deepest and the longest that there may be.
PATHS = (
  st.lists(NAMES, min_size=1, max_size=4)
  | st.builds(lambda name: [name] * 64, NAMES)
  | st.builds(lambda name: [(name * 400)[:400]] * 2, NAMES)
).map('/'.join)


@st.composite
def artifacts(draw):
  found = {}
  for path, tensor in draw(st.dictionaries(PATHS, TENSORS, max_size=6)).items():
    if not _is_taken(path, found):
      found[path] = tensor
  norms = {}
  for norm in draw(st.lists(PATHS, max_size=2, unique=True)):
    if norm.count('/') > 61 or _is_taken(f'params/{norm}', found):
      continue
    shape = st.just((draw(st.integers(0, 5)),))
    for leaf in ('scale', 'bias'):
      kind = st.sampled_from([np.dtype(kind) for kind in ('f2', 'f4', 'f8')])
      found[f'params/{norm}/{leaf}'] = draw(bit_patterns(kind, shape))
    norms[norm] = draw(st.floats(0, 1))
  return artifact.Artifact(
    model=draw(TEXT),
    model_args=draw(st.dictionaries(TEXT, PLAIN, max_size=3)),
    input_shape=tuple(draw(st.lists(st.integers(1, 2**31), max_size=3))),
    preprocessing=draw(st.dictionaries(TEXT, PLAIN, max_size=2)),
    class_names=tuple(draw(st.lists(TEXT, max_size=3))),
    tensors=found,
    folded_norms=norms,
  )


def _is_taken(path, found):
  """Whether a tensor is there, on the way, or below."""
  return any(
    f'{path}/'.startswith(f'{other}/') or f'{other}/'.startswith(f'{path}/')
    for other in found
  )


def _check(given, check_equal):
  data = artifact.dumps(given)
  found = artifact.loads(data)
  check_equal(found, given)
  for name in ('model_args', 'preprocessing', 'folded_norms'):
    # Equality holds for 1, 1.0 and True, and for 0.0 and -0.0.
    one, other = (
      json.dumps(getattr(side, name), sort_keys=True) for side in (found, given)
    )
    assert one == other
  assert artifact.dumps(found) == data
  parts = artifact.sizes(data)
  assert sum(parts.values()) == len(data)
  rows = artifact.layers(data)
  assert [row.path for row in rows] == list(found.tensors)
  shared = parts['preamble'] + parts['header']
  assert sum(row.num_bytes for row in rows) + shared == len(data)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(given=artifacts())
def test_round_trip(check_equal, given):
  _check(given, check_equal)


@pytest.mark.slow
@hypothesis.settings(
  max_examples=5000,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(given=artifacts())
def test_5000_round_trips(check_equal, given):
  _check(given, check_equal)


@pytest.mark.parametrize('where', [(0, 0), (-1, -1)])
def test_no_code_is_free(check_equal, where):
  codes = np.zeros((1400, 1024), np.int8)
  codes[where] = 1
  given = EMPTY._replace(tensors={'k': qtensors.TernaryTensor(codes)})
  data = artifact.dumps(given)
  # log2(2^15 / (2^15 - 89)) = 0.003924 bits each.
  stream = artifact.sizes(data)['ternary_codes']
  assert stream == pytest.approx(codes.size * 0.003924 / 8, rel=0.02)
  check_equal(artifact.loads(data), given)


def test_few_tiles_are_not_starved_of_bytes(check_equal):
  codes = np.zeros((1024, 1024), np.int8)
  codes[:2, :332] = np.random.default_rng(0).random((2, 332)) < 0.83
  given = EMPTY._replace(tensors={'k': qtensors.TernaryTensor(codes)})
  check_equal(artifact.loads(artifact.dumps(given)), given)


def test_round_trip_on_disk(resnet, small, check_equal, tmp_path):
  for given in (resnet, small):
    size = artifact.write(tmp_path / 'net.hq', given)
    assert size == (tmp_path / 'net.hq').stat().st_size
    check_equal(artifact.read(tmp_path / 'net.hq'), given)
