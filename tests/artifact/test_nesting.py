"""Lists, tuples and names in a file, and bodies that are no nesting."""

import json

import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import format as container
from tests.artifact import mutations

_PATHS = 'params/a/b/0', 'params/a/b/2/0', 'params/c/-7/d'
_TENSORS = {path: np.float16([i]) for i, path in enumerate(_PATHS)}
_NESTING = {
  'ema': {},
  'params': {
    'a/b': ['list', 0, None, ['tuple', 0, ['tuple']]],
    'c': ['dict', [3, ['list']], [-7, {'d': 0}]],
  },
}
_GIVEN = artifact.Artifact('', {}, (1,), {}, (), _TENSORS, {}, nesting=_NESTING)


def test_a_tree_is_what_it_was():
  found = artifact.loads(artifact.dumps(_GIVEN))
  assert found.nesting == _NESTING
  for given in (_GIVEN, found):
    assert jax.tree.map(lambda x: x.item(), artifact.to_variables(given)) == {
      'ema': {},
      'params': {
        'a/b': [0.0, None, (1.0, ())],
        'c': {3: [], -7: {'d': 2.0}},
      },
    }


def test_statistics_of_a_folded_norm_have_their_place():
  ones = np.ones(2, np.float16)
  tensors = {'params/0/scale': ones, 'params/0/bias': ones}
  nesting = {
    'params': ['list', {'bias': 0, 'scale': 0}],
    'batch_stats': ['tuple', {'mean': 0, 'var': 0}],
  }
  found = artifact.to_variables(
    _GIVEN._replace(tensors=tensors, folded_norms={'0': 0.5}, nesting=nesting)
  )
  assert found['params'][0]['scale'].tolist() == [1, 1]
  (norm,) = found['batch_stats']
  assert norm['mean'].tolist() == [0, 0] and norm['var'].tolist() == [0.5, 0.5]


def test_its_bytes_are_counted():
  data = artifact.dumps(_GIVEN)
  plain = artifact.dumps(_GIVEN._replace(nesting=None))
  found = artifact.sizes(data)
  assert found['nesting'] == len(data) - len(plain) - 12
  assert sum(found.values()) == len(data)


@pytest.mark.parametrize(
  ('nesting', 'message'),
  [
    ([], 'nesting is no dict of collections'),
    ({}, "nesting has no place for 'params/a/b/0'"),
    ({'params': {'a/b': ['list', 0, 0]}}, "'params/a/b/1', which is no tensor"),
    ({'params': {'a': {'b': ['list', 0]}, 'a/b': ['list', 0]}}, 'or twice'),
    ({'ema': 0}, "nesting has 'ema', which is no tensor"),
    ({'ema': 0.0}, 'nesting has 0.0, which is no node'),
    ({'ema': False}, 'nesting has False, which is no node'),
    ({'ema': 'list'}, "nesting has 'list', which is no node"),
    ({'ema': []}, 'which is no node'),
    ({'ema': ['set']}, 'which is no node'),
    ({'ema': [['list']]}, 'which is no node'),
    ({'ema': ['dict', 3]}, 'wanted a new key and a node'),
    ({'ema': ['dict', ['3', None]]}, 'wanted a new key and a node'),
    ({'ema': ['dict', [True, None]]}, 'wanted a new key and a node'),
    ({'ema': ['dict', [3, None], [3, None]]}, 'wanted a new key and a node'),
    ({'\ud800': None}, 'wanted what UTF-8 can hold'),
  ],
)
def test_what_is_no_nesting_is_refused(nesting, message):
  sections = dict(container.unpack(artifact.dumps(_GIVEN)))
  sections['nest'] = mutations.make_head(json.dumps(nesting).encode())
  with pytest.raises(ValueError, match=message) as caught:
    artifact.loads(container.pack(list(sections.items())))
  assert str(caught.value).startswith('artifact: section nest: ')
  with pytest.raises(ValueError, match=message):
    artifact.dumps(_GIVEN._replace(nesting=nesting))
  with pytest.raises(ValueError, match=message):
    artifact.to_variables(_GIVEN._replace(nesting=nesting))


def test_a_deep_nesting_is_refused():
  deep = None
  for _ in range(70):
    deep = {'a': deep}
  with pytest.raises(ValueError, match='nesting is more than 64 deep'):
    artifact.dumps(_GIVEN._replace(nesting=_NESTING | {'ema': deep}))
