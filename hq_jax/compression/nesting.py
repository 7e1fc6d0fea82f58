"""The nesting of a pytree, as a file holds it."""

from collections.abc import Mapping
from typing import Any

import jax

from hq_jax.artifact import nesting as nesting_lib
from hq_jax.core import trees

_VALUE = jax.tree_util.GetAttrKey('value')


def find(variables: Mapping[str, Any]) -> dict[str, Any] | None:
  """The nesting of variables; None where the paths of the leaves tell it.

  What has attributes becomes a dict of them by name.
  """
  paths = _list_paths(variables)
  found = _nest('', variables)
  return None if found == nesting_lib.from_paths(paths) else found


def _list_paths(variables: Mapping[str, Any]) -> list[str]:
  """The paths of the leaves, none of which is another's or leads to it."""
  try:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
  except ValueError as error:
    raise ValueError(
      'variables: a dict has keys that cannot be sorted, wanted names or'
      ' integers alone'
    ) from error
  paths = sorted(trees.path_string(path) for path, _ in leaves)
  known: set[str] = set()
  for path in paths:
    parents = path.split('/')
    inside = {'/'.join(parents[:i]) for i in range(1, len(parents) + 1)}
    if both := inside & known:
      raise ValueError(
        f'variables: {path} and {min(both)} are two leaves, wanted names that'
        ' a file can tell apart'
      )
    known.add(path)
  return paths


def _nest(path: str, node: Any) -> Any:
  if node is None:
    return None
  if jax.tree_util.all_leaves([node]):
    return nesting_lib.TENSOR
  children = jax.tree_util.tree_leaves_with_path(
    node, is_leaf=lambda x: x is not node
  )
  if isinstance(node, list | tuple) and not hasattr(node, '_fields'):
    kind = 'tuple' if isinstance(node, tuple) else 'list'
    return [
      kind,
      *(_nest(f'{path}/{i}', x) for i, (_, x) in enumerate(children)),
    ]
  named = {_get_name(path, node, keys[0]): x for keys, x in children}
  if [keys[0] for keys, _ in children] == [_VALUE]:
    (child,) = named.values()
    if jax.tree_util.all_leaves([child]):  # As `trees.path_string` has it.
      return nesting_lib.TENSOR
  nested = {
    name: _nest(f'{path}/{name}', x) for name, x in named.items() if _is_data(x)
  }
  if all(isinstance(name, str) for name in nested):
    return nested
  return ['dict', *([name, x] for name, x in nested.items())]


def _is_data(node: Any) -> bool:
  """Whether a node is more than a mark of its library's, without arrays."""
  is_container = node is None or isinstance(node, Mapping | list | tuple)
  return is_container or bool(jax.tree.leaves(node))


def _get_name(path: str, node: Any, key: Any) -> str | int:
  if isinstance(key, jax.tree_util.GetAttrKey):
    return key.name
  name: Any = getattr(key, 'key', None)
  if isinstance(key, jax.tree_util.DictKey) and type(name) in (str, int):
    return name
  place = path.strip('/') or 'params'
  if isinstance(key, jax.tree_util.DictKey):
    raise ValueError(
      f'variables: {place} has the key {name!r:.40}, wanted names or integers'
    )
  raise ValueError(
    f'variables: {place} is of type {type(node).__name__}, whose parts have no'
    ' names, wanted dicts, lists, tuples or dataclasses (of an NNX module,'
    ' nnx.state)'
  )
