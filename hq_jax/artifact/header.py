"""The section HEAD: names, shapes and arguments, as deflated JSON."""

from collections.abc import Iterator, Sequence
import json
import struct
from typing import Any, NamedTuple

from hq_jax.artifact import byte_planes
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib

# What a text may hold: the objects that Python makes of one byte can take
# fifty, and DEFLATE makes a thousand bytes of one.
MAX_BYTES = 1 << 20
MAX_MARKS = 1 << 16  # commas and opening brackets: it has no more values
MAX_PATHS = 1 << 13  # of tensors and of folded norms
MAX_CHARACTERS = 1 << 19  # of these paths

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
  """What HEAD holds: an artifact, with specs in the place of tensors."""

  model: str
  model_args: dict[str, Any]
  input_shape: tuple[int, ...]
  preprocessing: dict[str, Any]
  class_names: tuple[str, ...]
  specs: tuple[layout.Spec, ...]  # in the order of `sort_specs`
  folded_norms: dict[str, float]


def make(artifact: model_lib.Artifact, specs: Sequence[layout.Spec]) -> Header:
  """The header of an artifact whose tensors have these specs."""
  return Header(*artifact[:5], sort_specs(specs), artifact.folded_norms)


def sort_specs(specs: Sequence[layout.Spec]) -> tuple[layout.Spec, ...]:
  """Sorts into the order of the file: by the names of the path."""
  return tuple(sorted(specs, key=lambda spec: spec.path.split('/')))


def encode(header: Header) -> bytes:
  """Writes the body of HEAD."""
  paths = [*(spec.path for spec in header.specs), *header.folded_norms]
  _check_paths(len(paths), sum(map(len, paths)))
  tree: dict[str, Any] = {}
  for path, encoding, shape, codewords, axes in header.specs:
    scale_axes = [] if axes is None else [list(axes)]
    model_lib.insert(tree, path, [encoding, *codewords, *scale_axes, *shape])
  for norm, epsilon in header.folded_norms.items():
    model_lib.insert(tree, f'params/{norm}/{_EPSILON}', float(epsilon))
  fields = {
    'args': header.model_args,
    'classes': list(header.class_names),
    'input': list(header.input_shape),
    'model': header.model,
    'preprocessing': header.preprocessing,
    'tree': tree,
  }
  return pack_json(fields)


def pack_json(value: Any) -> bytes:
  """The body of a section that is a JSON text."""
  text = json.dumps(
    value,
    sort_keys=True,
    separators=(',', ':'),
    ensure_ascii=False,
    allow_nan=False,
    default=dict,  # of other mappings
  ).encode()
  _check_size(len(text))
  _check_marks(text)
  return struct.pack('<I', len(text)) + byte_planes.deflate(text)


def unpack_json(body: bytes | memoryview) -> Any:
  """The inverse of `pack_json`."""
  if len(body) < 4:
    raise ValueError(f'{len(body)} bytes, wanted 4 or more')
  size = struct.unpack_from('<I', body)[0]
  _check_size(size)
  text = byte_planes.inflate(body[4:], size)
  _check_marks(text)
  try:
    return json.loads(
      text.decode(),
      object_pairs_hook=_no_repeats,
      parse_constant=_no_constants,
    )
  except RecursionError:
    raise ValueError('the JSON text is nested too deeply') from None


def decode(body: bytes | memoryview) -> Header:
  """The inverse of `encode`."""
  fields = _parse(body)
  for key, kind in _KEYS.items():
    if not isinstance(fields[key], kind):
      raise ValueError(f'{key!r} is no {kind.__name__}')
  if any(type(size) is not int for size in fields['input']):
    raise ValueError("'input' holds what is no integer")
  specs: list[layout.Spec] = []
  norms: dict[str, float] = {}
  num_characters = 0
  for path, leaf in _walk((), fields['tree']):
    if isinstance(leaf, layout.Spec):
      specs.append(leaf)
    else:
      norms[path] = leaf
    num_characters += len(path)
    _check_paths(len(specs) + len(norms), num_characters)
  return Header(
    model=fields['model'],
    model_args=fields['args'],
    input_shape=tuple(fields['input']),
    preprocessing=fields['preprocessing'],
    class_names=tuple(fields['classes']),
    specs=sort_specs(specs),
    folded_norms=norms,
  )


def _parse(body: bytes | memoryview) -> dict[str, Any]:
  fields = unpack_json(body)
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


def _check_size(num_bytes: int) -> None:
  if num_bytes > MAX_BYTES:
    raise ValueError(f'{num_bytes} bytes of JSON, wanted at most {MAX_BYTES}')


def _check_marks(text: bytes) -> None:
  num_marks = sum(map(text.count, (b',', b'[', b'{')))
  if num_marks > MAX_MARKS:
    raise ValueError(
      f'{num_marks} commas and opening brackets in the JSON text, wanted at '
      f'most {MAX_MARKS}'
    )


def _check_paths(num_paths: int, num_characters: int) -> None:
  if num_paths > MAX_PATHS or num_characters > MAX_CHARACTERS:
    raise ValueError(
      f'{num_paths} tensors and folded norms or more, whose paths have '
      f'{num_characters} characters; wanted at most {MAX_PATHS} and '
      f'{MAX_CHARACTERS}'
    )


def _walk(
  names: tuple[str, ...], folder: dict[str, Any]
) -> Iterator[tuple[str, layout.Spec | float]]:
  """The tensors and the folded norms, these with their epsilons."""
  for name, node in folder.items():
    if name == _EPSILON and names:
      yield _get_norm(names, node), node
      continue
    path = '/'.join((*names, name))
    if '/' in name:
      raise ValueError(f'{path!r:.80}: a name with / in it')
    model_lib.check_path(path)
    if isinstance(node, list):
      yield path, _make_spec(path, node)
    elif isinstance(node, dict):
      yield from _walk((*names, name), node)
    else:
      raise ValueError(f'{path!r}: neither a tensor nor a folder')


def _make_spec(path: str, node: list[Any]) -> layout.Spec:
  if not node or not isinstance(node[0], str):
    raise ValueError(f'{path!r}: no encoding')
  encoding, *sizes = node
  num_sizes = 2 if encoding in layout.CODEBOOK else 0  # of the codewords
  codewords, shape = tuple(sizes[:num_sizes]), tuple(sizes[num_sizes:])
  scale_axes = None
  if encoding in layout.TERNARY and shape and isinstance(shape[0], list):
    scale_axes, shape = tuple(shape[0]), shape[1:]
  spec = layout.Spec(path, encoding, shape, codewords, scale_axes)
  layout.check_spec(spec)
  return spec


def _get_norm(names: tuple[str, ...], epsilon: Any) -> str:
  collection, *norm = names
  if collection != 'params' or not norm:
    raise ValueError(f'{"/".join(names)!r}: a folded norm outside of params')
  if not isinstance(epsilon, float):
    raise ValueError(f'folded norm {"/".join(norm)!r}: epsilon is no float')
  return '/'.join(norm)
