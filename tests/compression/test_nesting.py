"""Trees of any library to a file and back."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
from flax import nnx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.compression import post_training
from hq_jax.core import trees


def _return(params, **arguments):
  """Parameters as they come back from a file."""
  found = post_training.compress(params, sparsity=0.5, **arguments)
  back = artifact.to_variables(artifact.loads(artifact.dumps(found)))
  now = artifact.to_variables(found)
  assert jax.tree.structure(back) == jax.tree.structure(now)
  jax.tree.map(np.testing.assert_array_equal, back, now)
  return back['params']


def _check(back, params, select=trees.kernels):
  """The same tree, each kernel with half of its weights."""
  assert jax.tree.structure(back) == jax.tree.structure(params)
  axes = trees.flatten(trees.find_axes(params, select))
  back = trees.flatten(back)
  for path, leaf in trees.flatten(params).items():
    assert back[path].shape == leaf.shape
    if path in axes:
      kept = back[path] != 0
      assert (np.sign(back[path]) == np.sign(leaf) * kept).all()
      assert abs(kept.mean() - 0.5) <= 1 / leaf.size
    else:
      np.testing.assert_allclose(back[path], leaf, rtol=1e-2)


def _draw(*shape):
  return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def test_haiku_applies_what_comes_back():
  net = hk.without_apply_rng(
    hk.transform(lambda x: hk.nets.MLP([64, 8], name='mlp')(x))
  )
  x = jnp.ones((2, 32))
  params = net.init(jax.random.key(0), x)
  back = _return(params)
  assert list(back) == ['mlp/~/linear_0', 'mlp/~/linear_1']
  _check(back, params)
  hidden = jax.nn.relu(x @ back['mlp/~/linear_0']['w'])
  np.testing.assert_allclose(
    net.apply(back, x), hidden @ back['mlp/~/linear_1']['w'], rtol=1e-5
  )


@pytest.mark.parametrize(
  'params',
  [
    {'layers': [{'kernel': _draw(8, 4)}, None, {'kernel': _draw(4, 4)}]},
    # As `jax.example_libraries.stax` has them.
    [({'kernel': _draw(8, 4)}, _draw(4)), (), ({'kernel': _draw(4, 2)},)],
    {'layers': {n: {'kernel': _draw(n, 4)} for n in (2, 10)}, 'more': {}},
    {'a/b': {'kernel': _draw(4, 4)}, 'a': {'c/d': {'kernel': _draw(5, 4)}}},
  ],
  ids=['list', 'stax', 'numbers', 'slashes'],
)
def test_dicts_lists_and_tuples_are_what_they_were(params):
  _check(_return(params), params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Layer:
  kernel: np.ndarray
  a: np.ndarray | None = None


class _Net(NamedTuple):
  layers: list[_Layer]
  head: dict[str, np.ndarray]


def test_classes_come_back_by_the_names_of_their_parts():
  params = _Net([_Layer(_draw(8, 4), _draw(4))], {'kernel': _draw(4, 2)})
  back = _return(params)
  assert set(back) == {'layers', 'head'} and len(back['layers']) == 1
  assert set(back['layers'][0]) == {'kernel', 'a'}
  _check(trees.restore(back, params), params)


def test_equinox_and_nnx_take_what_comes_back():
  model = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
  arrays = eqx.filter(model, eqx.is_array)
  back = trees.restore(_return(arrays), arrays)
  _check(back, arrays)
  assert eqx.combine(back, model)(np.ones(4)).shape == (3,)

  class Net(nnx.Module):
    def __init__(self):
      self.layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))])

  net = Net()
  given = nnx.to_pure_dict(nnx.state(net))
  back = _return(nnx.state(net))
  _check(back, given)
  nnx.update(net, back)
  np.testing.assert_array_equal(
    net.layers[0].kernel[...], back['layers'][0]['kernel']
  )


def test_the_plan_knows_the_length():
  params = {'a/b': [{'kernel': _draw(256, 128)}, {'kernel': _draw(128, 64)}]}
  found = post_training.compress(params, target_ratio=20.0)
  dense_bytes = 4 * (256 * 128 + 128 * 64)
  assert 20 <= dense_bytes / len(artifact.dumps(found)) <= 20.2
  assert list(artifact.to_variables(found)['params']) == ['a/b']


def test_a_plain_tree_costs_nothing():
  found = post_training.compress({'a': {'kernel': _draw(4, 4)}})
  assert found.nesting is None


@jax.tree_util.register_pytree_node_class
class _Nameless:
  def __init__(self, *parts):
    self.parts = parts

  def tree_flatten(self):
    return self.parts, None

  @classmethod
  def tree_unflatten(cls, _, parts):
    return cls(*parts)


@pytest.mark.parametrize(
  ('params', 'message'),
  [
    (
      {'a': _Nameless(_draw(2, 2))},
      'params/a is of type _Nameless, whose parts have no names, wanted dicts',
    ),
    ({'a': {(1, 2): _draw(2, 2)}}, r'params/a has the key \(1, 2\), wanted '),
    ({1: _draw(2, 2), 'a': _draw(2, 2)}, 'a dict has keys that cannot be sort'),
    (
      {'a': {'b': {'kernel': _draw(2, 2)}}, 'a/b': {'kernel': _draw(2, 2)}},
      'params/a/b/kernel and params/a/b/kernel are two leaves, wanted names',
    ),
    (
      {'a': _draw(2, 2), 'a/b': {'kernel': _draw(2, 2)}},
      'params/a/b/kernel and params/a are two leaves, wanted names',
    ),
  ],
)
def test_what_a_file_cannot_hold_is_refused(params, message):
  with pytest.raises(ValueError, match=f'^variables: {message}') as caught:
    post_training.compress(params)
  assert '\n' not in str(caught.value)
