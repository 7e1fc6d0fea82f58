"""Paths, selection, and masked trees."""

import collections

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax.core import trees

Pair = collections.namedtuple('Pair', 'w b')


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


def test_flatten_passes_over_masked_and_empty_nodes():
  tree = {'a': optax.MaskedNode(), 'b': None, 'c': {}, 'd': Pair(1, 2)}
  assert trees.flatten(tree) == {'d/w': 1, 'd/b': 2}
  is_pair = lambda node: isinstance(node, Pair)
  assert trees.flatten(tree, is_leaf=is_pair) == {'d': Pair(1, 2)}


@pytest.mark.parametrize(
  ('path', 'shape', 'dtype', 'wanted'),
  [
    ('a/kernel', (2, 3), jnp.float32, True),
    ('kernel', (3, 3, 4, 8), jnp.bfloat16, True),
    ('a/w', (2, 3), jnp.float16, True),
    ('a/weight', (2, 3), jnp.float32, True),
    ('a/kernel', (3,), jnp.float32, False),
    ('a/kernel', (2, 3), jnp.int8, False),
    ('a/bias', (2, 3), jnp.float32, False),
    ('kernel/embedding', (2, 3), jnp.float32, False),
    ('a/my_kernel', (2, 3), jnp.float32, False),
    ('a/kernel', (1, 1), jnp.float32, True),
    ('a/kernel', (2, 0), jnp.float32, False),
  ],
)
def test_kernels(path, shape, dtype, wanted):
  assert trees.kernels(path, jax.ShapeDtypeStruct(shape, dtype)) is wanted


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
  selected = trees.select(params, 'head/kernel')
  assert trees.flatten(selected) == {'head/kernel': True, 'head2/kernel': False}
  for pattern in ('head', 'kernel'):
    with pytest.raises(ValueError, match='matches no leaf'):
      trees.select(params, pattern)


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


def test_axes_of_kernels():
  tree = {
    'flax': {'kernel': jnp.ones((3, 3, 4, 8)), 'bias': jnp.ones(8)},
    'haiku': {'w': jnp.ones((2, 3))},
    'equinox': {'weight': jnp.ones((3, 2, 1, 1))},
    # Of attention, but for the output, each head has channels of its own.
    'query': {'kernel': jnp.ones((8, 2, 4)), 'bias': jnp.ones((2, 4))},
    'key': {'kernel': jnp.ones((8, 4))},
    'out': {'kernel': jnp.ones((2, 4, 8))},
  }
  axes = trees.find_axes(tree)
  assert trees.flatten(axes) == {
    'equinox/weight': trees.Axes((0,)),
    'flax/kernel': trees.Axes((3,)),
    'haiku/w': trees.Axes((1,)),
    'key/kernel': trees.Axes((1,)),
    'out/kernel': trees.Axes((2,)),
    'query/kernel': trees.Axes((1, 2)),
  }
  assert axes['flax']['bias'] == optax.MaskedNode()
  assert jax.tree.structure(trees.merge(axes, tree)) == jax.tree.structure(tree)


@pytest.mark.parametrize(
  ('axis', 'wanted'),
  [
    (0, (0,)),
    (-1, (3,)),
    (-3, (1,)),
    (2, (2,)),
    (np.int64(0), (0,)),
    ((-1, 1), (1, 3)),
    ((3, np.int64(-1)), (3,)),
  ],
)
def test_axes_that_are_given_are_counted_from_0(axis, wanted):
  tree = {'weight': jnp.ones((2, 3, 4, 5))}
  found = trees.find_axes(tree, channel_axis=axis)
  assert found == {'weight': trees.Axes(wanted)}
  assert {type(axis) for axis in found['weight'].channel} == {int}


def test_axes_by_path_and_leaf():
  tree = {'a': jnp.ones((2, 3)), 'transposed': jnp.ones((2, 2, 3, 4))}
  find = lambda path, leaf: leaf.ndim - (2 if path == 'transposed' else 1)
  assert trees.find_axes(tree, '.*', find) == {
    'a': trees.Axes((1,)),
    'transposed': trees.Axes((2,)),
  }


@pytest.mark.parametrize(
  ('layer_axes', 'wanted'),
  [
    (0, trees.Axes((1,), (0,))),
    (-1, trees.Axes((0,), (3,))),
    ((2, 0), trees.Axes((1,), (0, 2))),
    ({'a/w.*': (-4, 3)}, trees.Axes((1,), (0, 3))),
    (lambda path, leaf: leaf.ndim - 3, trees.Axes((0,), (1,))),
    ({'b': 0}, trees.Axes((0,))),
  ],
)
def test_channel_axes_are_counted_in_one_layer(layer_axes, wanted):
  # The first axis of a weight, wherever its layers are.
  tree = {'a': {'weight': jnp.ones((2, 3, 4, 5))}, 'b': jnp.ones(3)}
  found = trees.find_axes(tree, layer_axes=layer_axes)
  assert found['a']['weight'] == wanted
  assert found['b'] == optax.MaskedNode()


def test_a_function_is_given_one_layer():
  given = {}

  def find(path, leaf):
    given[path] = leaf.shape, leaf.dtype
    return -1

  tree = {'kernel': jnp.ones((2, 3, 4, 5), jnp.bfloat16)}
  trees.find_axes(tree, channel_axis=find, layer_axes=(0, 2))
  assert given == {'kernel': ((3, 5), jnp.bfloat16)}


def test_what_stands_for_any_parameters_has_no_axes():
  found = []

  def init(params):
    found.append(trees.is_placeholder(params))
    return trees.find_axes(params, layer_axes={'.*': 0})

  # It calls the function with a node of its own in place of parameters.
  assert optax.tree.map_params(init, lambda leaf: -leaf, {'a': 1}) == {'a': -1}
  assert found == [True]
  for tree in ({}, [], (), None, {'a': None}, jnp.ones(2), {'a': jnp.ones(2)}):
    assert not trees.is_placeholder(tree)
  with pytest.raises(ValueError, match='an empty tree'):
    trees.find_axes({})


def test_the_metadata_of_flax_say_what_is_stacked():
  names = ('in', 'layers', 'out')
  tree = {
    'a.b': {'kernel': nn.LogicallyPartitioned(jnp.ones((2, 3, 4)), names)},
    'a_b': {'kernel': jnp.ones((2, 3, 4))},
    'head': {'kernel': nn.Partitioned(jnp.ones((2, 4)), ('in', None))},
  }
  layer_axes = trees.flax_layer_axes(jax.eval_shape(lambda: tree))
  axes = trees.find_axes(nn.meta.unbox(tree), layer_axes=layer_axes)
  assert trees.flatten(axes) == {
    'a.b/kernel': trees.Axes((2,), (1,)),
    # A path is no expression, whatever its letters mean in one.
    'a_b/kernel': trees.Axes((2,)),
    'head/kernel': trees.Axes((1,)),
  }
  assert list(trees.flax_layer_axes(tree, 'in').values()) == [(0,), (0,)]


def test_a_pattern_may_select_what_has_another_name():
  tree = {'embedding': jnp.ones((5, 2)), 'kernel': jnp.ones((2, 2))}
  axes = trees.find_axes(tree, 'emb.*')
  assert axes == {'embedding': trees.Axes((1,)), 'kernel': optax.MaskedNode()}


@pytest.mark.parametrize(
  ('leaf', 'message'),
  [
    (jnp.ones((2, 2), jnp.int32), 'is int32, not floating point'),
    (jnp.ones((2, 2), bool), 'is bool, not floating point'),
    (jnp.float32(1), r'has shape \(\), fewer than 2 axes'),
    (jnp.ones(3), r'has shape \(3,\), fewer than 2 axes'),
    (jnp.ones((2, 0)), r'has shape \(2, 0\), no elements'),
  ],
)
def test_what_cannot_be_quantized_is_refused_by_name(leaf, message):
  tree = {'a': {'thing': leaf}, 'kernel': jnp.ones((2, 2))}
  with pytest.raises(ValueError, match=f'select: a/thing {message}, wanted'):
    trees.find_axes(tree, '.*')
  # The default passes over the same leaf, even where it is called a kernel.
  tree = {'a': {'kernel': leaf}, 'kernel': jnp.ones((2, 2))}
  assert trees.flatten(trees.find_axes(tree)) == {'kernel': trees.Axes((1,))}


@pytest.mark.parametrize('axis', [2, -3, lambda path, leaf: 2])
def test_an_axis_that_is_not_there_is_refused(axis):
  with pytest.raises(
    ValueError, match=r'channel_axis of a/kernel is -?[23], wanted .* 2 axes'
  ):
    trees.find_axes({'a': {'kernel': jnp.ones((2, 3))}}, channel_axis=axis)


def test_describe_gives_every_reason():
  tree = {
    'conv': {'kernel': jnp.ones((3, 3, 1, 2)), 'bias': jnp.ones(2)},
    'count': jnp.int32(0),
    'embedding': jnp.ones((5, 2), jnp.bfloat16),
    'torch': {'weight': jnp.ones((2, 3))},
  }
  assert trees.describe(tree).splitlines() == [
    'path          shape         dtype     selected  why',
    'conv/bias     (2,)          float32   no        has shape (2,), fewer than'
    ' 2 axes',
    'conv/kernel   (3, 3, 1, 2)  float32   yes       kernels, output channels'
    ' on axis 3',
    'count         ()            int32     no        is int32, not floating'
    ' point',
    'embedding     (5, 2)        bfloat16  no        kernels does not match',
    'torch/weight  (2, 3)        float32   yes       kernels, output channels'
    ' on axis 0',
  ]


def test_describe_names_the_pattern_and_the_given_axis():
  tree = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 3))}
  shapes = jax.eval_shape(lambda: tree)
  found = trees.describe(shapes, 'a', channel_axis=0)
  _, first, second = found.splitlines()
  assert first.endswith("yes       'a', output channels on axis 0")
  assert second.endswith("no        'a' does not match")
  with pytest.raises(ValueError, match="'c' matches no leaf"):
    trees.describe(tree, 'c')


STACKED = {
  'a_bias_of_layers': {'a/kernel': (3, 8, 4), 'a/bias': (3, 4)},
  'norms_of_layers': {'query/kernel': (3, 8, 2, 4), 'norm/scale': (3, 8)},
  'a_name_of_dense_layers': {'layers/dense/kernel': (3, 8, 4)},
  'a_name_of_convolutions': {'blocks/conv/kernel': (5, 3, 3, 8, 4)},
  'experts': {'experts/w': (3, 8, 4)},
}
NOT_STACKED = {
  'one_dimension': {'conv/kernel': (3, 8, 4), 'conv/bias': (4,)},
  # Equinox has the biases of convolutions so.
  'as_many_channels': {'conv/weight': (3, 8, 3), 'conv/bias': (3, 1)},
  'as_many_heads': {'query/kernel': (2, 2, 4), 'query/bias': (2, 4)},
  'one_of_a_list': {'layers/0/kernel': (3, 8, 4)},
  'images': {'blocks/conv/kernel': (3, 3, 8, 4)},
  'two_axes': {'layers/kernel': (3, 4), 'layers/bias': (3,)},
}


@pytest.mark.parametrize('name', [*STACKED, *NOT_STACKED])
def test_describe_warns_of_kernels_that_look_stacked(name):
  shapes = (STACKED | NOT_STACKED)[name]
  tree = {
    path: jax.ShapeDtypeStruct(s, 'float32') for path, s in shapes.items()
  }
  table = trees.describe(tree)
  path, shape = next(iter(shapes.items()))
  warning = f'warning: {path} {shape} looks like {shape[0]} stacked layers'
  assert table.count('warning') == (name in STACKED)
  assert (warning in table) == (name in STACKED)
  if name in STACKED:
    assert 'warning' not in trees.describe(tree, layer_axes={path: 0})


def test_flatten_selected():
  params = _params()
  found = trees.flatten_selected(params)
  assert list(found) == ['blocks/0/w', 'stem/kernel']
  assert found['stem/kernel'] is params['stem']['kernel']
  assert list(trees.flatten_selected(params, 'blocks/1/.*')) == ['blocks/1/0']
  with pytest.raises(ValueError, match='matches no leaf'):
    trees.flatten_selected({'bias': jnp.ones(2)})


def test_variables_of_nnx_have_the_paths_of_their_modules():
  state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
  assert list(trees.flatten(state)) == ['bias', 'kernel']
  assert trees.flatten(trees.find_axes(state)) == {'kernel': trees.Axes((1,))}


def test_only_an_attribute_is_left_out_of_a_path():
  key = jax.tree_util.GetAttrKey
  path = (jax.tree_util.DictKey('kernel'), key('value'))
  assert trees.path_string(path) == 'kernel'
  assert trees.path_string((*path, key('array'))) == 'kernel/value/array'
  assert trees.path_string((key('value'),)) == ''
  assert trees.path_string(()) == ''
  # A dictionary's key of that name is one.
  assert list(trees.flatten({'kernel': {'value': 1}})) == ['kernel/value']


def test_mask_then_merge_gives_the_tree_back():
  params = _params()
  axes = trees.find_axes(params)
  masked = trees.mask(params, axes)
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


def test_axis_0_is_an_axis():
  # It is false as a bool is.
  tree, axes = {'a': 1, 'b': 2}, {'a': 0, 'b': optax.MaskedNode()}
  assert trees.mask(tree, axes) == {'a': 1, 'b': optax.MaskedNode()}
  assert trees.map_selected(lambda axis, x: 9, axes, tree) == {'a': 9, 'b': 2}


@pytest.mark.parametrize('other', [optax.MaskedNode(), (7, 8)])
def test_map_selected_hands_over_subtrees(other):
  mapped = trees.map_selected(
    lambda axis, x, pair: (axis, x + pair[1]),
    {'a': 3, 'b': optax.MaskedNode()},
    {'a': 1, 'b': 2},
    {'a': (3, 4), 'b': other},
  )
  assert mapped == {'a': (3, 5), 'b': 2}


def test_what_has_the_same_axes_is_compiled_once():
  num_traces = []

  @trees.jit_with_axes
  def add_up(axes, tree):
    num_traces.append(1)
    return trees.map_selected(lambda a, w: w.sum(a.layer), axes, tree)

  tree = {'kernel': jnp.ones((2, 3, 4)), 'bias': jnp.zeros(3)}
  for layer, shape in ((0, (3, 4)), (0, (3, 4)), (1, (2, 4))):
    found = add_up(trees.find_axes(tree, layer_axes=layer), tree)
    assert found['kernel'].shape == shape
  assert len(num_traces) == 2
