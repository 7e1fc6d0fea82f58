"""The section `nest`: how tensors are nested, where names do not tell.

Plain JSON values. A node is `0` for a tensor, `None` for one, a dict of nodes
by name, `['list', node, ...]`, `['tuple', node, ...]`, or, with keys that are
integers, `['dict', [key, node], ...]`. The keys on the way to a tensor, joined
by '/', are its path.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hq_jax.artifact import header as headers
from hq_jax.artifact import model as model_lib

TENSOR = 0

_SEQUENCES = {'list': list, 'tuple': tuple}


def encode(nesting: Mapping[str, Any]) -> bytes:
  """Writes the body of the section."""
  return headers.pack_json(nesting)


def decode(body: bytes | memoryview) -> Any:
  """The inverse of `encode`; `build` finds what is no nesting."""
  return headers.unpack_json(body)


def check(nesting: Any, paths: Iterable[str]) -> None:
  """Refuses what does not give each of these paths its place."""
  build(nesting, dict.fromkeys(paths))


def from_paths(paths: Iterable[str]) -> dict[str, Any]:
  """What names tell by themselves: nested dicts."""
  tree: dict[str, Any] = {}
  for path in paths:
    model_lib.insert(tree, path, TENSOR)
  return tree


def build(nesting: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Nests leaves, each of which has its place."""
  if not isinstance(nesting, Mapping):
    raise ValueError('nesting is no dict of collections, wanted one')
  left = dict(leaves)
  tree = _build((), nesting, left)
  if left:
    raise ValueError(f'nesting has no place for {next(iter(left))!r:.80}')
  return tree


def _build(names: tuple[str, ...], node: Any, left: dict[str, Any]) -> Any:
  if len(names) > model_lib.MAX_DEPTH:
    raise ValueError(f'nesting is more than {model_lib.MAX_DEPTH} deep')
  if node is None:
    return None
  if type(node) is int and node == TENSOR:
    path = '/'.join(names)
    if path not in left:
      raise ValueError(
        f'nesting has {path!r:.80}, which is no tensor, or twice'
      )
    return left.pop(path)
  if isinstance(node, Mapping):
    for key in node:
      model_lib.check_text('nesting: a name', key)
    return {key: _build((*names, key), x, left) for key, x in node.items()}
  kind, *children = node if isinstance(node, list) and node else (None,)
  if isinstance(kind, str) and kind in _SEQUENCES:
    return _SEQUENCES[kind](
      _build((*names, str(i)), x, left) for i, x in enumerate(children)
    )
  if kind != 'dict':
    raise ValueError(f'nesting has {node!r:.40}, which is no node')
  return {
    key: _build((*names, str(key)), x, left) for key, x in _pairs(children)
  }


def _pairs(children: Iterable[Any]) -> Iterator[tuple[int, Any]]:
  seen: set[int] = set()
  for pair in children:
    is_pair = isinstance(pair, list) and len(pair) == 2
    if not is_pair or type(pair[0]) is not int or pair[0] in seen:
      raise ValueError(f'nesting has {pair!r:.40}, wanted a new key and a node')
    seen.add(pair[0])
    yield pair[0], pair[1]
