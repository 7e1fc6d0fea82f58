"""What is refused of a step that was read, and in which words."""

import numpy as np
import pytest

from hq_jax.runtime.checkpoint import integrity
from hq_jax.runtime.checkpoint import orbax_io


def _message(call, *arguments, kind=ValueError):
  with pytest.raises(ValueError) as caught:
    call(*arguments)
  assert type(caught.value) is kind
  return str(caught.value)


def test_a_digest_is_of_the_values_in_any_order():
  data, meta = {'a': 1, 'b': [1, 2]}, {'step': 3}
  digest = integrity.get_digest(data, meta)
  assert len(digest) == 64 and set(digest) <= set('0123456789abcdef')
  assert integrity.get_digest({'b': [1, 2], 'a': 1}, meta) == digest
  for other in (
    ({'a': 1, 'b': [2, 1]}, meta),
    ({'a': 1}, meta),
    ({'a': 1, 'b': [1, 2]}, {'step': 4}),
    (meta, data),
  ):
    assert integrity.get_digest(*other) != digest


_SAVED = {path: ['float32[2]', f'{i:016x}'] for i, path in enumerate('abcde')}


def test_other_bits_are_named_by_leaf():
  # What is there beside what was saved is no matter of bits.
  integrity.check_fingerprints(_SAVED | {'z': ['int8[]', '0' * 16]}, _SAVED)
  refuse = lambda *paths: _message(
    integrity.check_fingerprints,
    _SAVED | {path: ['float32[2]', 'f' * 16] for path in paths},
    _SAVED,
    kind=orbax_io.DamagedError,
  )
  assert refuse('b') == 'has other bits than were saved in b'
  assert refuse('b', 'd', 'a') == 'has other bits than were saved in a, b, d'
  assert refuse(*'abcde') == (
    'has other bits than were saved in a, b, c and 2 more'
  )


_LIKE = {'a': np.zeros((2, 3), np.float32), 'b': np.zeros((), np.int32)}
_TYPES = {'a': 'float32[2, 3]', 'b': 'int32[]'}


@pytest.mark.parametrize(
  ('theirs', 'message'),
  [
    (
      _TYPES | {'a': 'float32[3, 2]'},
      'a is float32[3, 2], wanted float32[2, 3]',
    ),
    (_TYPES | {'b': 'int64[]'}, 'b is int64[], wanted int32[]'),
    ({'a': 'float32[2, 3]'}, 'b is not there, wanted int32[]'),
    (_TYPES | {'c': 'int8[1]'}, 'c is int8[1], wanted no such array'),
    (
      {'c': 'int8[1]', 'd': 'int8[1]'},
      'a is not there, wanted float32[2, 3]; b is not there, wanted int32[]; c'
      ' is int8[1], wanted no such array; and 1 more',
    ),
  ],
)
def test_other_arrays_are_named_by_path(theirs, message):
  integrity.check_like('steps/3', _TYPES, _LIKE)
  found = _message(integrity.check_like, 'steps/3', theirs, _LIKE)
  assert found == f'steps/3: {message}'
