"""The contents of a file in words, tensor by tensor."""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any
import zlib

from hq_jax.artifact import accounting
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import reader
from hq_jax.runtime import terminal

# The parts of a file that belong to no tensor, and what the table calls them.
_CONTAINER = {
  'preamble': '(preamble and section table)',
  'header': '(header)',
  'activation_ranges': '(activation ranges)',
  'nesting': '(nesting)',
  'ancillary': '(ancillary sections)',
}
# What a tensor of codes holds, by the first letter of its encoding.
_CODES = {'t': 'ternary', 'q': 'int8', 'c': 'codebook'}
_NUM_CLASSES = 5  # shown
_MAX_CLASS = 40  # characters of a class name that are shown
_MAX_LINE = 1000  # characters of a line above the tables that are shown


def describe(data: bytes, name: str = '') -> dict[str, Any]:
  """Says what a file holds."""
  with reader.naming(name or 'artifact'):
    parsed, parts, rows = accounting.account(data)
  header = parsed.header
  dense_bytes = count_dense_bytes(header)
  return {
    'file': name,
    'format_version': container.VERSION,  # the reader takes no other
    'model': header.model,
    'arguments': header.model_args,
    'input_shape': list(header.input_shape),
    'preprocessing': header.preprocessing,
    'class_names': list(header.class_names),
    'folded_norms': header.folded_norms,
    'activation_ranges': list(reader.decode_ranges(parsed)),
    'file_bytes': len(data),
    'dense_bytes': dense_bytes,
    'ratio': dense_bytes / len(data),
    'sections': [
      {'name': section, 'bytes': len(body), 'crc32': zlib.crc32(body)}
      for section, body in parsed.sections.items()
    ],
    'layers': [
      {
        'path': row.path,
        'shape': list(row.shape),
        'encoding': row.encoding,
        'zeros': row.zeros,
        'entropy_bits': row.entropy_bits,
        'has_contexts': row.has_contexts,
        'scale_axes': (
          None if row.scale_axes is None else list(row.scale_axes)
        ),
        'bits_per_weight': row.bits,
        'bytes': row.num_bytes,
      }
      for row in rows
    ],
    'parts': parts,
    'container_bytes': sum(parts.get(part, 0) for part in _CONTAINER),
  }


def describe_file(path: str) -> dict[str, Any]:
  """Says what the file at a path holds."""
  try:
    return describe(reader.read_bytes(path), path)
  except MemoryError as error:
    raise ValueError(f'{path}: its tensors do not fit in memory') from error


def count_dense_bytes(header: headers.Header) -> int:
  """The float32 bytes of a model's parameters and statistics.

  Four times the sizes of all tensors and, for each folded batch norm, of its
  'scale' twice more: its mean and its variance are in no file.
  """
  sizes = {spec.path: math.prod(spec.shape) for spec in header.specs}
  statistics = [sizes[f'params/{norm}/scale'] for norm in header.folded_norms]
  return 4 * (sum(sizes.values()) + 2 * sum(statistics))


def name_encoding(
  encoding: str,
  has_contexts: bool = False,
  scale_axes: Sequence[int] | None = None,
) -> str:
  """Says an encoding in words."""
  if encoding in layout.DTYPES:
    return layout.DTYPES[encoding][1].name
  codes, scale = _CODES[encoding[0]], layout.SCALES[encoding]
  if encoding in layout.CODEBOOK:
    codes = f'{layout.DTYPES[layout.CODEBOOK[encoding][0]][1].name} {codes}'
  if has_contexts:
    codes += ' by contexts'
  if scale:
    found = f'{codes} + {layout.DTYPES[scale][1].name} scale'
    if scale_axes is None:
      return found
    return f'{found} by axes {", ".join(map(str, scale_axes)) or "none"}'
  return 'int8 codes' if codes == 'int8' else codes


def format_text(found: Mapping[str, Any]) -> str:
  """Formats a description for people."""
  facts = {
    'file': f'{found["file"]} (format version {found["format_version"]})',
    'model': found['model'],
    'arguments': json.dumps(found['arguments'], ensure_ascii=False),
    'input shape': _format_shape(found['input_shape']),
    'preprocessing': json.dumps(found['preprocessing'], ensure_ascii=False),
    'classes': _format_classes(found['class_names']),
    'bytes': f'{found["file_bytes"]:,}',
    'ratio': f'{found["ratio"]:.2f} ({found["dense_bytes"]:,} bytes in float32:'
    ' all parameters and statistics)',
    'checksums': f'good ({len(found["sections"])} sections)',
  }
  lines = [
    _shorten(terminal.escape(f'{name}: {fact}'), _MAX_LINE)
    for name, fact in facts.items()
  ]
  sections = _make_table(_section_rows(found), '<><')
  layers = _make_table(_layer_rows(found), '<>>>>><')
  return '\n'.join([*lines, '', sections, '', layers])


def format_json(found: Mapping[str, Any]) -> str:
  """Formats a description for machines."""
  return json.dumps(found, sort_keys=True)


def _shorten(text: str, width: int) -> str:
  return text if len(text) <= width else f'{text[: width - 3]}...'


def _format_shape(shape: Sequence[int]) -> str:
  return 'x'.join(map(str, shape)) or 'scalar'


def _format_classes(names: Sequence[str]) -> str:
  shown = [repr(_shorten(name, _MAX_CLASS)) for name in names[:_NUM_CLASSES]]
  more = ['...'] if len(names) > _NUM_CLASSES else []
  listed = f' ({", ".join(shown + more)})' if names else ''
  return f'{len(names):,}{listed}'


def _section_rows(found: Mapping[str, Any]) -> list[list[str]]:
  rows = [
    [section['name'], f'{section["bytes"]:,}', f'{section["crc32"]:08x}']
    for section in found['sections']
  ]
  return [['section', 'bytes', 'CRC-32'], *rows]


def _layer_rows(found: Mapping[str, Any]) -> list[list[str]]:
  heads = ['tensor', 'shape', 'zeros', 'entropy', 'bits', 'bytes', 'encoding']
  blank = [''] * 4
  others = [
    [words, *blank, f'{found["parts"][part]:,}', '']
    for part, words in _CONTAINER.items()
    if part in found['parts']
  ]
  total = ['(the file)', *blank, f'{found["file_bytes"]:,}', '']
  return [heads, *map(_layer_row, found['layers']), *others, total]


def _layer_row(layer: Mapping[str, Any]) -> list[str]:
  entropy = layer['entropy_bits']
  return [
    layer['path'],
    _format_shape(layer['shape']),
    f'{layer["zeros"]:.2%}',
    '-' if entropy is None else f'{entropy:.3f}',
    f'{layer["bits_per_weight"]:.3f}',
    f'{layer["bytes"]:,}',
    name_encoding(
      layer['encoding'], layer['has_contexts'], layer['scale_axes']
    ),
  ]


def _make_table(rows: Sequence[Sequence[str]], sides: str) -> str:
  """Aligned columns with ruled heads; `sides`: < left, > right."""
  import tabulate  # Nothing else here needs it.

  heads, *rest = [[terminal.escape(cell) for cell in row] for row in rows]
  rule = ['-' * len(head) for head in heads]
  return tabulate.tabulate(
    [heads, rule, *rest],
    tablefmt='plain',
    disable_numparse=True,
    colalign=[{'<': 'left', '>': 'right'}[side] for side in sides],
  )
