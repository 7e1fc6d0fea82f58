import re

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import model as model_lib
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('net', {}, (8,), {}, (), {}, {})
CODES = np.zeros((3, 2), np.int8)
INDICES = np.zeros((3, 2), np.uint8)
BOOK = np.arange(6, dtype=np.float16).reshape(2, 3)
NORM = {
  'params/n/scale': np.ones(2, np.float16),
  'params/n/bias': np.ones(2, np.float16),
}


def _ternary(codes, scale=None):
  return {'tensors': {'k': qtensors.TernaryTensor(codes, scale)}}


def _int8(codes, scale=None):
  return {'tensors': {'k': qtensors.Int8Tensor(codes, scale)}}


def _codebook(indices=INDICES, codewords=BOOK, scale=None):
  return {'tensors': {'k': qtensors.CodebookTensor(indices, codewords, scale)}}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (_codebook(CODES), "'k': indices are int8 with 2 axes"),
    (_codebook(np.zeros(3, 'u1')), "'k': indices are uint8 with 1 axes"),
    (
      _codebook(np.full((2, 2), 2, 'u1')),
      "'k': index 2, there are 2 codewords",
    ),
    (_codebook(codewords=BOOK[0]), "'k': codewords have 1 axes, wanted 2"),
    (_codebook(codewords=BOOK.astype('f8')), "'k': codewords is float64"),
    (_codebook(codewords=np.ones((257, 1), 'f2')), "'k': 257 codewords of"),
    (_codebook(codewords=np.ones((2, 0), 'f2')), "'k': 2 codewords of size 0"),
    (_codebook(np.zeros((0, 2), 'u1'), BOOK[:0]), "'k': 0 codewords of size 3"),
    (_codebook(scale=np.ones(2)), "'k': scale is float64"),
    (_codebook(scale=np.ones(3, 'f4')), 'scale has shape (3,), wanted (2,)'),
    ({'model': 3}, 'model is of type int, wanted a string'),
    ({'model': '\ud800'}, 'model is '),
    ({'model_args': []}, 'model_args is no dict'),
    ({'model_args': {1: 2}}, 'model_args: key is of type int'),
    ({'model_args': {'a': [np.int32(3)]}}, "model_args['a'][] is "),
    ({'model_args': {'a': 1 << 63}}, "model_args['a'] is "),
    ({'preprocessing': {'std': float('nan')}}, "preprocessing['std'] is nan"),
    ({'input_shape': (8, 0)}, 'input_shape is (8, 0)'),
    ({'input_shape': (8.0,)}, 'input_shape is (8.0,)'),
    ({'class_names': ('a', 3)}, 'class_names[1] is of type int'),
    ({'tensors': {3: CODES}}, 'tensor path is of type int'),
    ({'tensors': {'a//b': CODES}}, "tensor path 'a//b'"),
    ({'tensors': {'': CODES}}, "tensor path ''"),
    ({'tensors': {'a': [1]}}, "'a' is of type list, wanted a"),
    ({'tensors': {'a': np.zeros(2, bool)}}, "'a': dtype is bool"),
    ({'tensors': {'a': np.zeros(2, object)}}, "'a': dtype is object"),
    ({'tensors': {'a': np.zeros(2, complex)}}, "'a': dtype is complex128"),
    (_ternary(CODES + 2), "'k': codes in [2, 2]"),
    (_ternary(CODES - 2), "'k': codes in [-2, -2]"),
    (_ternary(CODES.astype(int)), "'k': codes are int64 with 2 axes"),
    (_ternary(CODES[0, 0]), "'k': codes are int8 with 0 axes"),
    (_ternary(CODES, np.ones(2)), "'k': scale is float64"),
    (_ternary(CODES, np.ones(3, 'f4')), "'k': scale has shape (3,)"),
    (
      _ternary(CODES, np.ones((3, 3), 'f4')),
      "'k': scale has shape (3, 3), wanted (3, 2)",
    ),
    (
      _ternary(np.zeros((1 << 15, 1, 2), 'i1'), np.ones((1 << 15, 1, 2), 'f4')),
      '32768 layers of ternary tensors, wanted at most 16384',
    ),
    (
      _int8(CODES + np.int8(-128)),
      "'k': codes in [-128, -128], wanted [-127, 127]",
    ),
    (_int8(CODES.astype(int)), "'k': codes are int64 with 2 axes"),
    (_int8(CODES[0, 0]), "'k': codes are int8 with 0 axes"),
    (_int8(CODES[0]), "'k': 1 axes"),
    (_int8(CODES, np.ones(2)), "'k': scale is float64"),
    (_int8(CODES, np.ones(1, 'f4')), "'k': scale has shape (1,), wanted (2,)"),
    (_int8(CODES[0], np.ones(2, 'f2')), 'scale has shape (2,), wanted (1,)'),
    ({'activation_ranges': (1,)}, 'activation_ranges[0] is 1, wanted a pos'),
    ({'activation_ranges': (1.0, 0.1)}, 'activation_ranges[1] is 0.1, wanted'),
    ({'activation_ranges': (1e6,)}, 'activation_ranges[0] is 1000000.0'),
    ({'activation_ranges': (1.0,) * 8193}, 'activation_ranges has 8193 entr'),
    ({'folded_norms': {'n': 1e-5}}, "'n': no floating tensor 'scale'"),
    ({'tensors': NORM, 'folded_norms': {'n': 2.0}}, "'n': epsilon is 2.0"),
    ({'tensors': NORM, 'folded_norms': {'n': 1}}, "'n': epsilon is 1"),
    ({'tensors': NORM, 'folded_norms': {'': 0.1}}, "tensor path ''"),
    (
      {
        'tensors': NORM
        | {'params/n/bias': qtensors.Int8Tensor(CODES[0], np.ones(1, 'f2'))},
        'folded_norms': {'n': 1e-5},
      },
      "'n': no floating tensor 'bias'",
    ),
    (
      {
        'tensors': NORM | {'params/n/bias': np.ones(3, 'f2')},
        'folded_norms': {'n': 1e-5},
      },
      "'n': scale and bias have shapes (2,) and (3,)",
    ),
  ],
)
def test_message_names_the_field(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)) as caught:
    artifact.dumps(EMPTY._replace(**changes))
  assert '\n' not in str(caught.value)


def test_nesting_is_bounded():
  value = {}
  for _ in range(model_lib.MAX_DEPTH + 1):
    value = {'a': value}
  with pytest.raises(ValueError, match='nested more than 64 deep'):
    artifact.dumps(EMPTY._replace(model_args=value))
