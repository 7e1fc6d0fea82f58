"""Key-paths, leaf selection and masked trees over any pytree."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tabulate

Selector = Callable[[str, Any], bool] | str
ChannelAxis = Callable[[str, Any], int] | int

# The last key of a kernel, and where its output channel is: Flax, Haiku and
# plain dictionaries have it last; Equinox, as PyTorch, has it first.
_CHANNEL_AXES = {'kernel': -1, 'w': -1, 'weight': 0}


def path_string(path: tuple[Any, ...]) -> str:
  """Joins the keys of a key-path with slashes.

  An attribute `value` at the end is left out: it is the content of a Flax NNX
  variable, and the variable's own key says what it is.

  >>> import jax
  >>> tree = {'conv': {'kernel': 1}}
  >>> [path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  ['conv/kernel']

  Args:
    path: a key-path of `jax.tree_util`.

  Returns:
    The keys joined by '/'.
  """
  if path and path[-1] == jax.tree_util.GetAttrKey('value'):
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flatten(
  tree: chex.ArrayTree, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
  """Returns the leaves of a tree by their path.

  >>> flatten({'a': {'b': 1, 'c': 2}})
  {'a/b': 1, 'a/c': 2}

  Args:
    tree: any pytree.
    is_leaf: which nodes count as leaves, as in `jax.tree.map`.

  Returns:
    A flat dictionary in the tree's own order.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return {path_string(path): leaf for path, leaf in leaves}


def in_params(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """From paths inside the parameters to those of all variables and of files.

  >>> in_params({'a/kernel': 1})
  {'params/a/kernel': 1}

  Args:
    leaves: anything by path inside the parameters.

  Returns:
    The same by path inside the variables, whose parameters are 'params'.
  """
  return {f'params/{path}': leaf for path, leaf in leaves.items()}


def _last_key(path: str) -> str:
  return path.rsplit('/', 1)[-1]


def _why_no_kernel(leaf: Any) -> str | None:
  """Why a leaf cannot be quantized, whoever selects it; None where it can."""
  dtype, shape = jnp.result_type(leaf), np.shape(leaf)
  if not jnp.issubdtype(dtype, jnp.floating):
    return f'is {dtype}, not floating point'
  if len(shape) < 2:
    return f'has shape {shape}, fewer than 2 axes'
  if 0 in shape:
    return f'has shape {shape}, no elements'
  return None


def kernels(path: str, leaf: Any) -> bool:
  """Selects floating-point kernels: the default of every transform.

  A kernel has two axes or more, at least one element, and is called `kernel`
  (Flax), `w` (Haiku) or `weight` (Equinox).

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
  return _last_key(path) in _CHANNEL_AXES and _why_no_kernel(leaf) is None


def channel_axis(path: str, leaf: Any) -> int:
  """The axis of a kernel's output channels: the default of every transform.

  The first axis of what is called `weight`, as Equinox has it, and the last
  one of everything else, as Flax and Haiku have it. Haiku's transposed
  convolutions (`[h, w, out, in]`) need a function of one's own.

  >>> import jax.numpy as jnp
  >>> channel_axis('dense/kernel', jnp.zeros((2, 3)))
  -1
  >>> channel_axis('layers/0/weight', jnp.zeros((3, 2)))
  0

  Args:
    path: the leaf's path, joined by '/'.
    leaf: the leaf.

  Returns:
    An axis.
  """
  del leaf
  return _CHANNEL_AXES.get(_last_key(path), -1)


def _name(selector: Selector) -> str:
  return getattr(selector, '__name__', repr(selector))


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
    paths = ', '.join(list(flatten(tree))[:8]) or 'an empty tree'
    raise ValueError(
      f'select: {_name(selector)} matches no leaf, wanted at least one of:'
      f' {paths}'
    )
  return selected


def find_axes(
  tree: chex.ArrayTree,
  selector: Selector = kernels,
  axis: ChannelAxis = channel_axis,
) -> chex.ArrayTree:
  """The channel axis of each kernel that a selector chooses.

  >>> import jax.numpy as jnp
  >>> find_axes({'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)})
  {'bias': MaskedNode(), 'kernel': 1}

  Args:
    tree: any pytree of arrays.
    selector: see `select`.
    axis: the axis of the output channels: of every kernel, or a function of
      path and leaf.

  Returns:
    A masked tree of ints, counted from 0.

  Raises:
    ValueError: where nothing is selected, a selected leaf cannot be quantized
      (not floating point, fewer than two axes, no elements), or it has no such
      axis.
  """

  def find(path, chosen, leaf):
    if not chosen:
      return optax.MaskedNode()
    name = path_string(path)
    reason = _why_no_kernel(leaf)
    if reason is not None:
      raise ValueError(
        f'select: {name} {reason}, wanted floating-point kernels of two axes'
        ' or more'
      )
    found = axis(name, leaf) if callable(axis) else axis
    num_axes = np.ndim(leaf)
    if not -num_axes <= found < num_axes:
      raise ValueError(
        f'channel_axis of {name} is {found}, wanted one of its {num_axes} axes'
      )
    return int(found % num_axes)

  return jax.tree_util.tree_map_with_path(find, select(tree, selector), tree)


def flatten_selected(
  tree: chex.ArrayTree, selector: Selector = kernels
) -> dict[str, Any]:
  """The selected leaves of a tree by their path.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}
  >>> list(flatten_selected(params))
  ['kernel']

  Args:
    tree: any pytree of arrays, or of shapes and types.
    selector: see `select`.

  Returns:
    A flat dictionary in the tree's own order.

  Raises:
    ValueError: as `find_axes` does.
  """
  return flatten(mask(tree, find_axes(tree, selector)))


def describe(
  tree: chex.ArrayTree,
  selector: Selector = kernels,
  axis: ChannelAxis = channel_axis,
) -> str:
  """A table of all leaves: which are selected, and why.

  >>> import jax.numpy as jnp
  >>> print(describe({'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}))
  path    shape   dtype    selected  why
  bias    (3,)    float32  no        has shape (3,), fewer than 2 axes
  kernel  (2, 3)  float32  yes       kernels, output channels on axis 1

  Args:
    tree: any pytree of arrays, or of shapes and types.
    selector: see `select`.
    axis: see `find_axes`.

  Returns:
    Aligned lines, a leaf each, in the tree's own order.

  Raises:
    ValueError: as `find_axes` does.
  """
  axes = flatten(find_axes(tree, selector, axis))
  name = _name(selector)
  rows: list[Sequence[str]] = [('path', 'shape', 'dtype', 'selected', 'why')]
  for path, leaf in flatten(tree).items():
    if path in axes:
      why = f'{name}, output channels on axis {axes[path]}'
    else:
      why = _why_no_kernel(leaf) or f'{name} does not match'
    selected = 'yes' if path in axes else 'no'
    kind = np.shape(leaf), jnp.result_type(leaf)
    rows.append((path, *map(str, kind), selected, why))
  return tabulate.tabulate(rows, tablefmt='plain', disable_numparse=True)


def _is_masked(node: Any) -> bool:
  return isinstance(node, optax.MaskedNode)


def mask(tree: chex.ArrayTree, axes: chex.ArrayTree) -> chex.ArrayTree:
  """Keeps the selected leaves; the others become empty nodes.

  >>> import optax
  >>> mask({'a': 1, 'b': 2}, {'a': 0, 'b': optax.MaskedNode()})
  {'a': 1, 'b': MaskedNode()}

  Args:
    tree: any pytree.
    axes: a masked tree with the same structure, of `find_axes`.

  Returns:
    The tree with `optax.MaskedNode()` in place of what is not selected, so
    that `jax.tree.map` passes over it.
  """
  return jax.tree.map(
    lambda axis, leaf: axis if _is_masked(axis) else leaf,
    axes,
    tree,
    is_leaf=_is_masked,
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
  return jax.tree.map(
    lambda new, old: old if _is_masked(new) else new,
    masked,
    tree,
    is_leaf=_is_masked,
  )


def map_selected(
  fn: Callable[..., Any],
  axes: chex.ArrayTree,
  tree: chex.ArrayTree,
  *rest: chex.ArrayTree,
) -> chex.ArrayTree:
  """Maps over the selected leaves and leaves the others of `tree` as they are.

  >>> import optax
  >>> map_selected(lambda axis, a, b: a + b,
  ...              {'a': 0, 'b': optax.MaskedNode()},
  ...              {'a': 1, 'b': 2}, {'a': 10, 'b': 20})
  {'a': 11, 'b': 2}

  Args:
    fn: called with the channel axis, the selected leaf of `tree` and of each
      of `rest`.
    axes: a masked tree, of `find_axes`.
    tree: the tree to map over.
    *rest: trees with its structure, or masked ones.

  Returns:
    A tree with the structure of `tree`.
  """
  # `rest` may hold MaskedNodes where nothing is selected: those subtrees are
  # handed to the function whole, and are not looked at.
  return jax.tree.map(
    lambda axis, leaf, *others: (
      leaf if _is_masked(axis) else fn(axis, leaf, *others)
    ),
    axes,
    tree,
    *rest,
    is_leaf=_is_masked,
  )
