"""Lengths that are predicted, against those of files that are written."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import layout
from hq_jax.artifact import lengths
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def _predict(found):
  specs = [layout.spec_of(path, x) for path, x in found.tensors.items()]
  return lengths.predict(
    found,
    specs,
    lambda run: layout.get_values(found.tensors[run.path], run.part),
  )


def _measure(found):
  """The bytes of the file that are in no stream."""
  data = artifact.dumps(found)
  parts = artifact.sizes(data)
  return len(data) - parts['ternary_codes'] - parts.get('indices', 0)


def test_all_but_the_streams_is_exact(resnet, small):
  for found in (EMPTY, resnet, small):
    assert _predict(found) == _measure(found)


def _draw_tensor(rng, kind, shape):
  normal = rng.standard_normal
  codes = rng.integers(-1, 2, shape).astype(np.int8)
  match kind:
    case 'ternary':
      return qtensors.TernaryTensor(codes)
    case 'stack':
      scale = normal((shape[0], *[1] * (len(shape) - 2), shape[-1]))
      return qtensors.TernaryTensor(codes, scale.astype(np.float16))
    case 'int8':
      return artifact.quantize_int8(normal(shape))
    case 'codebook':
      codewords = normal((4, 1)).astype(np.float32)
      return qtensors.CodebookTensor(codes.view(np.uint8) % 4, codewords)
  return normal(shape).astype(kind)


@hypothesis.given(
  st.lists(
    st.tuples(
      st.sampled_from(['ternary', 'stack', 'int8', 'codebook', 'f2', 'f4']),
      st.lists(st.integers(1, 9), min_size=2, max_size=4),
    ),
    max_size=6,
  ),
  st.text(max_size=9),
  st.lists(st.sampled_from([0.5, 6.0]), max_size=3),
)
def test_whatever_a_file_holds(tensors, model, ranges):
  rng = np.random.default_rng(0)
  found = EMPTY._replace(
    model=model,
    tensors={
      f'params/{i}/kernel': _draw_tensor(rng, kind, tuple(shape))
      for i, (kind, shape) in enumerate(tensors)
    },
    activation_ranges=tuple(ranges),
  )
  assert _predict(found) == _measure(found)


def test_what_no_file_holds_is_refused():
  large = layout.Spec('params/a/kernel', 't', (1 << 15, 1 << 15))
  specs = [large._replace(path=f'params/{i}') for i in range(3)]
  for found, described, message in (
    (EMPTY, specs, 'coded weights in a file of'),
    (EMPTY._replace(input_shape=(0,)), [], 'input_shape is'),
    (EMPTY, [large._replace(path='/')], 'tensor path'),
    (EMPTY, [large._replace(shape=())], '0 axes'),
  ):
    with pytest.raises(ValueError, match=message):
      lengths.predict(found, described, lambda run: np.zeros(0, np.float16))
