"""Paths, selection, and masked trees."""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from hq_jax import trees

Pair = collections.namedtuple('Pair', 'w b')


class Layer(NamedTuple):
  kernel: jax.Array
  bias: jax.Array


def _params():
  return {
    'stem': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
    'blocks': [Pair(jnp.ones((3, 3)), jnp.ones(3)), (jnp.ones((4, 4)),)],
  }


def test_paths_of_dictionaries_lists_tuples_and_named_tuples():
  assert list(trees.flatten(_params())) == [
    'blocks/0/w',
    'blocks/0/b',
    'blocks/1/0',
    'stem/bias',
    'stem/kernel',
  ]


def test_flatten_gives_the_leaves_themselves():
  params = _params()
  flat = trees.flatten(params)
  assert flat['stem/kernel'] is params['stem']['kernel']
  assert flat['blocks/1/0'] is params['blocks'][1][0]


def test_flatten_passes_over_masked_and_empty_nodes():
  tree = {'a': optax.MaskedNode(), 'b': None, 'c': {}, 'd': 1}
  assert trees.flatten(tree) == {'d': 1}


@pytest.mark.parametrize(
  ('path', 'shape', 'dtype', 'wanted'),
  [
    ('a/kernel', (2, 3), jnp.float32, True),
    ('kernel', (3, 3, 4, 8), jnp.bfloat16, True),
    ('a/w', (2, 3), jnp.float16, True),
    ('a/weight', (2, 3), jnp.float32, True),
    ('a/kernel', (3,), jnp.float32, False),
    ('a/kernel', (), jnp.float32, False),
    ('a/kernel', (2, 3), jnp.int8, False),
    ('a/kernel', (2, 3), jnp.complex64, False),
    ('a/bias', (2, 3), jnp.float32, False),
    ('kernel/embedding', (2, 3), jnp.float32, False),
    ('a/my_kernel', (2, 3), jnp.float32, False),
  ],
)
def test_kernels(path, shape, dtype, wanted):
  assert trees.kernels(path, jnp.zeros(shape, dtype)) is wanted


def test_kernels_of_shapes_only():
  assert trees.kernels('kernel', jax.ShapeDtypeStruct((2, 2), jnp.float32))


def test_select_by_predicate():
  selected = trees.select(_params(), trees.kernels)
  assert trees.flatten(selected) == {
    'blocks/0/w': True,
    'blocks/0/b': False,
    'blocks/1/0': False,
    'stem/bias': False,
    'stem/kernel': True,
  }


def test_select_by_expression_matches_the_whole_path():
  params = {'head': {'kernel': 1}, 'head2': {'kernel': 2}}
  assert trees.select(params, 'head/kernel') == {
    'head': {'kernel': True},
    'head2': {'kernel': False},
  }
  with pytest.raises(ValueError, match='matches no leaf'):
    trees.select(params, 'head')
  with pytest.raises(ValueError, match='matches no leaf'):
    trees.select(params, 'kernel')


def test_select_gives_bools_whatever_the_predicate_returns():
  selected = trees.select({'a': 1, 'b': 2}, lambda path, leaf: leaf - 1)
  assert selected == {'a': False, 'b': True}
  assert type(selected['a']) is bool


def test_select_nothing_names_the_selector_and_the_leaves():
  with pytest.raises(ValueError, match=r'kernels matches no leaf.*a/bias'):
    trees.select({'a': {'bias': jnp.ones(2)}}, trees.kernels)
  with pytest.raises(ValueError, match=r"'x.\*' matches no leaf.*empty tree"):
    trees.select({}, 'x.*')


def test_select_malformed_expression():
  with pytest.raises(ValueError, match=r"select is '\('.*regular expression"):
    trees.select({'a': 1}, '(')


def test_mask_then_merge_gives_the_tree_back():
  params = _params()
  selected = trees.select(params, trees.kernels)
  masked = trees.mask(params, selected)
  assert list(trees.flatten(masked)) == ['blocks/0/w', 'stem/kernel']
  merged = trees.merge(jax.tree.map(lambda w: w + 1, masked), params)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  for path, leaf in trees.flatten(merged).items():
    wanted = 2 if path in ('blocks/0/w', 'stem/kernel') else 1
    assert bool((leaf == wanted).all()), path


def test_merge_keeps_what_is_masked_in_both():
  # So it is inside `optax.masked`, whose trees hold masked nodes too.
  masked = {'a': optax.MaskedNode(), 'b': 5}
  tree = {'a': optax.MaskedNode(), 'b': 1}
  assert trees.merge(masked, tree) == {'a': optax.MaskedNode(), 'b': 5}


def test_mask_keeps_named_tuples():
  layer = Layer(jnp.ones((2, 2)), jnp.ones(2))
  masked = trees.mask(layer, Layer(True, False))
  assert isinstance(masked, Layer)
  assert isinstance(masked.bias, optax.MaskedNode)


def test_map_selected_with_masked_rest():
  tree = {'a': 1, 'b': 2}
  rest = {'a': 10, 'b': optax.MaskedNode()}
  mapped = trees.map_selected(
    lambda x, y: x + y, {'a': True, 'b': False}, tree, rest
  )
  assert mapped == {'a': 11, 'b': 2}


def test_map_selected_hands_over_subtrees():
  tree = {'a': 1, 'b': 2}
  rest = {'a': (3, 4), 'b': (5, 6)}
  mapped = trees.map_selected(
    lambda x, pair: x + pair[1], {'a': False, 'b': True}, tree, rest
  )
  assert mapped == {'a': 1, 'b': 8}
