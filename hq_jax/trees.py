"""Key-paths, leaf selection and masked trees over any pytree."""

from collections.abc import Callable
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

Selector = Callable[[str, Any], bool] | str

# The last key of a kernel in Flax, Haiku and plain dictionaries.
_KERNEL_KEYS = ('kernel', 'w', 'weight')


def path_string(path: tuple[Any, ...]) -> str:
  """Joins the keys of a key-path with slashes.

  >>> import jax
  >>> tree = {'conv': {'kernel': 1}}
  >>> [path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  ['conv/kernel']

  Args:
    path: a key-path of `jax.tree_util`.

  Returns:
    The keys joined by '/'.
  """
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flatten(tree: chex.ArrayTree) -> dict[str, Any]:
  """Returns the leaves of a tree by their path.

  >>> flatten({'a': {'b': 1, 'c': 2}})
  {'a/b': 1, 'a/c': 2}

  Args:
    tree: any pytree.

  Returns:
    A flat dictionary in the tree's own order.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_string(path): leaf for path, leaf in leaves}


def kernels(path: str, leaf: Any) -> bool:
  """Selects floating-point kernels: the default of every transform.

  A kernel has two axes or more and is called `kernel` (Flax), `w` (Haiku) or
  `weight`; its output channel is its last axis.

  >>> import jax.numpy as jnp
  >>> kernels('dense/kernel', jnp.zeros((2, 3)))
  True
  >>> kernels('dense/bias', jnp.zeros((3,)))
  False

  Args:
    path: the leaf's path, joined by '/'.
    leaf: the leaf.

  Returns:
    Whether the leaf is a kernel.
  """
  return (
    path.rsplit('/', 1)[-1] in _KERNEL_KEYS
    and jnp.ndim(leaf) >= 2
    and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
  )


def select(tree: chex.ArrayTree, selector: Selector) -> chex.ArrayTree:
  """Marks the leaves that a selector chooses.

  >>> import jax.numpy as jnp
  >>> tree = {'a': {'kernel': jnp.zeros((2, 2)), 'bias': jnp.zeros(2)}}
  >>> select(tree, 'a/.*')
  {'a': {'bias': True, 'kernel': True}}

  Args:
    tree: any pytree of arrays.
    selector: a predicate of path and leaf, or a regular expression that must
      match the whole path.

  Returns:
    A tree of bools with the same structure.

  Raises:
    ValueError: where nothing is selected, or the expression is malformed.
  """
  if isinstance(selector, str):
    try:
      pattern = re.compile(selector)
    except re.error as error:
      raise ValueError(
        f'select is {selector!r}, wanted a regular expression: {error}'
      ) from error
    chosen = lambda path, leaf: pattern.fullmatch(path) is not None
  else:
    chosen = selector
  selected = jax.tree_util.tree_map_with_path(
    lambda path, leaf: bool(chosen(path_string(path), leaf)), tree
  )
  if not any(jax.tree.leaves(selected)):
    name = getattr(selector, '__name__', repr(selector))
    paths = ', '.join(list(flatten(tree))[:8]) or 'an empty tree'
    raise ValueError(
      f'select: {name} matches no leaf, wanted at least one of: {paths}'
    )
  return selected


def mask(tree: chex.ArrayTree, selected: chex.ArrayTree) -> chex.ArrayTree:
  """Keeps the selected leaves; the others become empty nodes.

  >>> mask({'a': 1, 'b': 2}, {'a': True, 'b': False})
  {'a': 1, 'b': MaskedNode()}

  Args:
    tree: any pytree.
    selected: a tree of bools with the same structure.

  Returns:
    The tree with `optax.MaskedNode()` in place of what is not selected, so
    that `jax.tree.map` passes over it.
  """
  return jax.tree.map(
    lambda keep, leaf: leaf if keep else optax.MaskedNode(), selected, tree
  )


def merge(masked: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
  """Puts the leaves of a masked tree over those of a whole one.

  >>> import optax
  >>> merge({'a': 3, 'b': optax.MaskedNode()}, {'a': 1, 'b': 2})
  {'a': 3, 'b': 2}

  Args:
    masked: a tree made by `mask`.
    tree: a whole tree; its leaves fill the gaps.

  Returns:
    A whole tree.
  """
  is_masked = lambda node: isinstance(node, optax.MaskedNode)
  return jax.tree.map(
    lambda new, old: old if is_masked(new) else new,
    masked,
    tree,
    is_leaf=is_masked,
  )


def map_selected(
  fn: Callable[..., Any],
  selected: chex.ArrayTree,
  tree: chex.ArrayTree,
  *rest: chex.ArrayTree,
) -> chex.ArrayTree:
  """Maps over the selected leaves and leaves the others of `tree` as they are.

  >>> map_selected(lambda a, b: a + b, {'a': True, 'b': False},
  ...              {'a': 1, 'b': 2}, {'a': 10, 'b': 20})
  {'a': 11, 'b': 2}

  Args:
    fn: called with the selected leaf of `tree` and of each of `rest`.
    selected: a tree of bools.
    tree: the tree to map over.
    *rest: trees with its structure, or masked ones.

  Returns:
    A tree with the structure of `tree`.
  """
  # `rest` may hold MaskedNodes where nothing is selected: those subtrees are
  # handed to the function whole, and are not looked at.
  return jax.tree.map(
    lambda keep, leaf, *others: fn(leaf, *others) if keep else leaf,
    selected,
    tree,
    *rest,
  )
