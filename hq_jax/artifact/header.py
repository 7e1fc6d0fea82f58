"""The section HEAD: all that is not numbers, as deflated compact JSON."""

from collections.abc import Sequence
import json
import struct
from typing import Any, NamedTuple

from hq_jax.artifact import layout
from hq_jax.artifact import planes
from hq_jax.artifact import records

MAX_BYTES = 1 << 22  # of JSON text

# The key, in the node of a folded batch norm, of its epsilon. No name in a
# path is empty.
_EPSILON = ''
# The keys of the JSON object, sorted, and the type of their values.
_KEYS = {
  'args': dict,
  'classes': list,
  'input': list,
  'model': str,
  'preprocessing': dict,
  'tree': dict,
}


class Header(NamedTuple):
  """What HEAD holds: an artifact, with specs in the place of tensors.

  Attributes:
    specs: in the order of the file: by the names of the path, by code point.
    others: see `records.Artifact`.
  """

  model: str
  model_args: dict[str, Any]
  input_shape: tuple[int, ...]
  preprocessing: dict[str, Any]
  class_names: tuple[str, ...]
  specs: tuple[layout.Spec, ...]
  folded_norms: dict[str, float]


def sort_specs(specs: Sequence[layout.Spec]) -> tuple[layout.Spec, ...]:
  """Sorts into the order of the file.

  >>> specs = [layout.Spec(path, 'f2', ()) for path in ('a.b', 'a/b')]
  >>> [spec.path for spec in sort_specs(specs)]
  ['a/b', 'a.b']
  """
  return tuple(sorted(specs, key=lambda spec: spec.path.split('/')))


def encode(header: Header) -> bytes:
  """Writes the body of HEAD.

  Args:
    header: validated, with sorted specs.

  Returns:
    The length of the JSON text as 32 bits, and the deflated text.

  Raises:
    ValueError: a path that is both a tensor and a folder of tensors, or a
      text beyond `MAX_BYTES`.

  >>> header = Header('net', {}, (8, 8, 1), {}, (), (), {})
  >>> decode(encode(header)) == header
  True
  """
  tree: dict[str, Any] = {}
  for path, encoding, shape in header.specs:
    records.insert(tree, path, [encoding, *shape])
  for norm, epsilon in header.folded_norms.items():
    records.insert(tree, f'params/{norm}/{_EPSILON}', float(epsilon))
  fields = {
    'args': records.to_plain('model_args', header.model_args),
    'classes': list(header.class_names),
    'input': list(header.input_shape),
    'model': header.model,
    'preprocessing': records.to_plain('preprocessing', header.preprocessing),
    'tree': tree,
  }
  text = json.dumps(
    fields,
    sort_keys=True,
    separators=(',', ':'),
    ensure_ascii=False,
    allow_nan=False,
  ).encode()
  if len(text) > MAX_BYTES:
    raise ValueError(f'{len(text)} bytes of JSON, wanted at most {MAX_BYTES}')
  return struct.pack('<I', len(text)) + planes.deflate(text)


def decode(body: bytes) -> Header:
  """The inverse of `encode`.

  Args:
    body: of HEAD.

  Returns:
    The header; every field has its type, every spec is within bounds.

  Raises:
    ValueError: anything else.

  >>> body = encode(Header('net', {}, (), {}, ('a',), (), {}))
  >>> decode(body).class_names
  ('a',)
  """
  fields = _parse(body)
  for key, kind in _KEYS.items():
    if not isinstance(fields[key], kind):
      raise ValueError(f'{key!r} is no {kind.__name__}')
  specs: list[layout.Spec] = []
  norms: dict[str, float] = {}
  for name, node in fields['tree'].items():
    _walk((name,), node, specs, norms)
  return Header(
    model=fields['model'],
    model_args=fields['args'],
    input_shape=tuple(fields['input']),
    preprocessing=fields['preprocessing'],
    class_names=tuple(fields['classes']),
    specs=sort_specs(specs),
    folded_norms=norms,
  )


def _parse(body: bytes) -> dict[str, Any]:
  if len(body) < 4:
    raise ValueError(f'{len(body)} bytes, wanted 4 or more')
  size = struct.unpack_from('<I', body)[0]
  if size > MAX_BYTES:
    raise ValueError(f'{size} bytes of JSON, wanted at most {MAX_BYTES}')
  try:
    fields = json.loads(
      planes.inflate(body[4:], size).decode(),
      object_pairs_hook=_no_repeats,
      parse_constant=_no_constants,
    )
  except RecursionError:
    raise ValueError('the JSON text is nested too deeply') from None
  if not isinstance(fields, dict) or fields.keys() != _KEYS.keys():
    raise ValueError(f'wanted a JSON object with the keys {list(_KEYS)}')
  return fields


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields = dict(pairs)
  if len(fields) < len(pairs):
    raise ValueError('a key is repeated in the JSON text')
  return fields


def _no_constants(name: str) -> Any:
  raise ValueError(f'{name} in the JSON text')


def _walk(
  names: tuple[str, ...],
  node: Any,
  specs: list[layout.Spec],
  norms: dict[str, float],
) -> None:
  path = '/'.join(names)
  if '/' in names[-1]:
    raise ValueError(f'{path!r:.80}: a name with / in it')
  records.check_path(path)
  if isinstance(node, list):
    if not node or not isinstance(node[0], str):
      raise ValueError(f'{path!r}: no encoding')
    spec = layout.Spec(path, node[0], tuple(node[1:]))
    layout.check_spec(spec)
    specs.append(spec)
    return
  if not isinstance(node, dict):
    raise ValueError(f'{path!r}: neither a tensor nor a folder')
  for name, child in node.items():
    if name != _EPSILON:
      _walk((*names, name), child, specs, norms)
      continue
    collection, _, norm = path.partition('/')
    if collection != 'params' or not norm:
      raise ValueError(f'{path!r}: a folded norm outside of params')
    norms[norm] = child
