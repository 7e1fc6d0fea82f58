"""Key-paths, leaf selection and masked trees over any pytree."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tabulate

Selector = Callable[[str, Any], bool] | str
SomeAxes = int | tuple[int, ...]
ChannelAxis = Callable[[str, Any], SomeAxes] | SomeAxes
LayerAxes = Callable[[str, Any], SomeAxes] | Mapping[str, SomeAxes] | SomeAxes

# The last key of a kernel, and where its output channel is: Flax, Haiku and
# plain dictionaries have it last; Equinox, as PyTorch, has it first.
_CHANNEL_AXES = {'kernel': -1, 'w': -1, 'weight': 0}
# Flax has a kernel `[in, heads, features]` in each of these.
_TO_HEADS = ('query', 'key', 'value')


@dataclasses.dataclass(frozen=True)
class Axes:
  """What the axes of a kernel are, but for those that are summed over.

  `[L, in, out]` has `Axes((2,), (0,))`: an output channel on axis 2, which has
  a radius and a scale in each of the layers on axis 0, which have a threshold
  each.

  Attributes:
    channel: the axes of the output channels, ascending, counted from 0.
    layer: those along which layers are stacked, likewise.
  """

  channel: tuple[int, ...]
  layer: tuple[int, ...] = ()

  @property
  def kept(self) -> tuple[int, ...]:
    """The axes along which the numbers of a channel vary."""
    return tuple(sorted(self.channel + self.layer))


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


def restore(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
  """Puts the leaves of a tree into another one, by their paths.

  A file holds dicts, lists and tuples. Classes come back from it as dicts of
  their attributes, which this turns into what they were.

  >>> import optax
  >>> restore({'count': 3, 'mu': {'a': 1}, 'nu': {'a': 2}},
  ...         optax.ScaleByAdamState(0, {'a': 0}, {'a': 0}))
  ScaleByAdamState(count=3, mu={'a': 1}, nu={'a': 2})

  Args:
    tree: any pytree, such as `artifact.to_variables(..)['params']`.
    like: any pytree whose leaves have the same paths and shapes, such as the
      parameters that a model is initialized with, or their shapes.

  Returns:
    A tree with the structure of `like` and the leaves of `tree`.

  Raises:
    ValueError: where a leaf is missing in one of them, or shapes differ.
  """
  found, wanted = flatten(tree), flatten(like)
  for path in [*wanted, *found]:
    shapes = [
      np.shape(leaves[path]) if path in leaves else None
      for leaves in (found, wanted)
    ]
    if shapes[0] != shapes[1]:
      raise ValueError(
        f'tree: {path} has shape {shapes[0]}, wanted {shapes[1]}, as in like'
      )
  return jax.tree_util.tree_map_with_path(
    lambda path, _: found[path_string(path)], like
  )


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


def channel_axis(path: str, leaf: Any) -> SomeAxes:
  """The axes of a kernel's output channels: the default of every transform.

  The first axis of what is called `weight`, as Equinox has it, and the last
  one of everything else, as Flax and Haiku have it; the last two of a kernel of
  three axes or more below `query`, `key` or `value`, which Flax's attention has
  as `[in, heads, features]`. Haiku's transposed convolutions (`[h, w, out,
  in]`) need a function of one's own.

  >>> import jax.numpy as jnp
  >>> channel_axis('dense/kernel', jnp.zeros((2, 3)))
  -1
  >>> channel_axis('layers/0/weight', jnp.zeros((3, 2)))
  0
  >>> channel_axis('attention/query/kernel', jnp.zeros((8, 2, 4)))
  (-2, -1)

  Args:
    path: the leaf's path, joined by '/'.
    leaf: the leaf.

  Returns:
    An axis, or several.
  """
  *_, module, name = ('', *path.split('/'))
  if name == 'kernel' and module in _TO_HEADS and np.ndim(leaf) >= 3:
    return (-2, -1)
  return _CHANNEL_AXES.get(name, -1)


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
  channel_axis: ChannelAxis = channel_axis,
  layer_axes: LayerAxes = (),
) -> chex.ArrayTree:
  """The channel and layer axes of each kernel that a selector chooses.

  >>> import jax.numpy as jnp
  >>> find_axes({'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)})
  {'bias': MaskedNode(), 'kernel': Axes(channel=(1,), layer=())}
  >>> stacked = {'blocks': {'kernel': jnp.zeros((12, 2, 3))}}
  >>> find_axes(stacked, layer_axes={'blocks/.*': 0})
  {'blocks': {'kernel': Axes(channel=(2,), layer=(0,))}}

  Args:
    tree: any pytree of arrays.
    selector: see `select`.
    channel_axis: the axis of the output channels, or several: of every kernel,
      or a function of path and leaf. Each place along them has a radius and a
      scale of its own. Where layers are stacked, it is counted in one layer,
      and the function is given the shape and type of one.
    layer_axes: the axis along which layers are stacked, or several: of every
      kernel, a function of path and leaf, or by regular expressions that must
      match the whole path (what none matches has none). Each place along them
      is a layer: it is treated as if it were a kernel by itself. See
      `flax_layer_axes`.

  Returns:
    A masked tree of `Axes`.

  Raises:
    ValueError: where nothing is selected, a selected leaf cannot be quantized
      (not floating point, fewer than two axes, no elements), it has no such
      axes, or none is left to sum over; or an expression matches nothing.
  """
  if is_placeholder(tree):
    return tree
  get_layers = _by_path(tree, layer_axes)

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
    num_axes = np.ndim(leaf)
    layers = _count_from_0('layer_axes', name, get_layers(name, leaf), num_axes)
    others = [axis for axis in range(num_axes) if axis not in layers]
    if layers:
      shape = tuple(np.shape(leaf)[axis] for axis in others)
      leaf = jax.ShapeDtypeStruct(shape, jnp.result_type(leaf))
    given = channel_axis(name, leaf) if callable(channel_axis) else channel_axis
    channels = _count_from_0('channel_axis', name, given, len(others))
    if not 0 < len(channels) < len(others):
      raise ValueError(
        f'channel_axis of {name} is {given}, wanted one axis or more, and one'
        f' of the {len(others)} left to sum over'
      )
    return Axes(tuple(others[axis] for axis in channels), layers)

  return jax.tree_util.tree_map_with_path(find, select(tree, selector), tree)


def _count_from_0(
  field: str, name: str, axes: SomeAxes, num_axes: int
) -> tuple[int, ...]:
  given = (axes,) if isinstance(axes, int | np.integer) else tuple(axes)
  if not all(-num_axes <= axis < num_axes for axis in given):
    raise ValueError(
      f'{field} of {name} is {axes}, wanted one of its {num_axes} axes'
    )
  return tuple(sorted({int(axis % num_axes) for axis in given}))


def _by_path(
  tree: chex.ArrayTree, axes: LayerAxes
) -> Callable[[str, Any], SomeAxes]:
  """Layer axes as a function, in whatever form they are given."""
  if callable(axes):
    return axes
  if not isinstance(axes, Mapping):
    return lambda path, leaf: axes
  paths = list(flatten(tree))
  for pattern in axes:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise ValueError(
        f'layer_axes has {pattern!r}, which matches no leaf, wanted at least'
        f' one of: {", ".join(paths[:8])}'
      )

  def look_up(path, leaf):
    del leaf
    found = [a for pattern, a in axes.items() if re.fullmatch(pattern, path)]
    return found[0] if found else ()

  return look_up


def is_placeholder(tree: chex.ArrayTree) -> bool:
  """Whether a tree stands for any parameters, as in `optax.tree.map_params`.

  >>> @jax.tree_util.register_static
  ... class Placeholder:
  ...   pass
  >>> is_placeholder(Placeholder()), is_placeholder({'kernel': 1})
  (True, False)

  Args:
    tree: any pytree.

  Returns:
    Whether it is a node without leaves, and no container.
  """
  is_container = isinstance(tree, (Mapping, Sequence)) or tree is None
  return not is_container and not jax.tree.leaves(tree)


def flax_layer_axes(
  variables: chex.ArrayTree, name: str = 'layers'
) -> dict[str, tuple[int, ...]]:
  """Layer axes from the metadata that Flax keeps of what it stacks.

  `nn.scan` and `nn.vmap` name the axis that they add in the boxes of
  `nn.with_partitioning` and `nn.with_logical_partitioning`, if they are given
  `metadata_params={nn.PARTITION_NAME: 'layers'}`; so do `nnx.scan` and
  `nnx.vmap` in the variables' `out_sharding`, with `transform_metadata`. Boxes
  may be of shapes and types only: `jax.eval_shape(model.init, ..)['params']`.

  >>> from flax import linen as nn
  >>> import jax.numpy as jnp
  >>> box = nn.Partitioned(jnp.zeros((12, 2, 3)), ('layers', None, None))
  >>> flax_layer_axes({'blocks': {'kernel': box}})
  {'blocks/kernel': (0,)}

  Args:
    variables: parameters with their boxes, or an NNX state.
    name: of the axis.

  Returns:
    What `layer_axes` takes: axes by path, for those leaves that have any. A
    path is escaped where it would be another regular expression.

  Raises:
    ValueError: where no leaf has such an axis.
  """

  def get_names(node: Any) -> Any:
    return getattr(node, 'names', None) or getattr(node, 'out_sharding', None)

  is_box = lambda node: isinstance(get_names(node), tuple)
  boxes = jax.tree_util.tree_leaves_with_path(variables, is_leaf=is_box)
  found = {
    re.escape(path_string(path)): tuple(
      axis for axis, given in enumerate(get_names(node)) if given == name
    )
    for path, node in boxes
    if is_box(node) and name in get_names(node)
  }
  if not found:
    raise ValueError(
      f'name is {name!r}, which no variable has, wanted that of a stacked axis'
    )
  return found


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
  channel_axis: ChannelAxis = channel_axis,
  layer_axes: LayerAxes = (),
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
    channel_axis: see `find_axes`.
    layer_axes: see `find_axes`.

  Returns:
    Aligned lines, a leaf each, in the tree's own order; and a warning for each
    kernel that looks like several, stacked, of which nothing was said.

  Raises:
    ValueError: as `find_axes` does.
  """
  axes = flatten(find_axes(tree, selector, channel_axis, layer_axes))
  name = _name(selector)
  rows: list[Sequence[str]] = [('path', 'shape', 'dtype', 'selected', 'why')]
  leaves = flatten(tree)
  for path, leaf in leaves.items():
    if path in axes:
      why = f'{name}, output channels on {_axes_in_words(axes[path].channel)}'
      if axes[path].layer:
        why += f', layers on {_axes_in_words(axes[path].layer)}'
    else:
      why = _why_no_kernel(leaf) or f'{name} does not match'
    selected = 'yes' if path in axes else 'no'
    kind = np.shape(leaf), jnp.result_type(leaf)
    rows.append((path, *map(str, kind), selected, why))
  table = tabulate.tabulate(rows, tablefmt='plain', disable_numparse=True)
  shapes = {path: np.shape(leaf) for path, leaf in leaves.items()}
  unsaid = [path for path in axes if not axes[path].layer]
  return '\n'.join([table, *_warn_of_stacks(shapes, unsaid)])


def _axes_in_words(axes: tuple[int, ...]) -> str:
  return f'{"axis" if len(axes) == 1 else "axes"} {", ".join(map(str, axes))}'


def _warn_of_stacks(
  shapes: Mapping[str, tuple[int, ...]], kernels: Sequence[str]
) -> list[str]:
  """A line for each kernel whose first axis looks like one of layers."""
  return [
    f'warning: {path} {shapes[path]} looks like {shapes[path][0]} stacked'
    ' layers; without layer_axes they share a threshold, and their channels a'
    ' radius'
    for path in kernels
    if len(shapes[path]) >= 3
    and (_is_in_stack(path, shapes) or _is_named_stack(path, shapes[path]))
  ]


def _is_in_stack(path: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
  """Whether all that surrounds a kernel has its first axis, vectors too."""
  *modules, _ = path.split('/')
  if modules and modules[-1] in _TO_HEADS and len(shapes[path]) == 3:
    return False
  for depth in range(len(modules), -1, -1):
    prefix = ''.join(f'{module}/' for module in modules[:depth])
    inside = [shapes[p] for p in shapes if p.startswith(prefix)]
    if not all(shape[:1] == shapes[path][:1] for shape in inside):
      return False
    if any(len(shape) == 2 and shape[1] > 1 for shape in inside):
      return True
  return False


def _is_named_stack(path: str, shape: tuple[int, ...]) -> bool:
  """Whether a dense or image kernel with one axis more has a stack's name."""
  found = re.search(
    r'(layers?|blocks?|stacked|scan|vmap|experts?)/(\D|$)', path
  )
  return len(shape) in (3, 5) and found is not None


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
    fn: called with the axes, the selected leaf of `tree` and of each of `rest`.
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


def jit_with_axes(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles `fn(axes, *trees)` once for all calls with the same axes.

  A function that is called outside `jit` would compile its loops at each call.

  >>> import jax.numpy as jnp
  >>> fn = jit_with_axes(lambda axes, w: w.sum(axes['kernel'].layer))
  >>> fn({'kernel': Axes((1,), (0,))}, jnp.ones(2))
  Array(2., dtype=float32)

  Args:
    fn: a function of a tree of `Axes`, and of trees of arrays.

  Returns:
    A function of the same arguments.
  """

  @functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
  def compiled(leaves, treedef, *trees):
    return fn(treedef.unflatten(leaves), *trees)

  def call(axes, *trees):
    leaves, treedef = jax.tree.flatten(axes)
    return compiled(tuple(leaves), treedef, *trees)

  return call
