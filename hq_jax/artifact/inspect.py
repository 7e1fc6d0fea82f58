"""The contents of a file in words, tensor by tensor."""

import argparse
from collections.abc import Mapping, Sequence
import json
import math
import os
import sys
from typing import Any
import zlib

import tabulate

from hq_jax import command_line
from hq_jax.artifact import accounting
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import reader

_DESCRIPTION = """\
Prints what an .hq file holds and where its bytes go, from the file alone.

  ratio    float32 bytes of all parameters and statistics of the model, over
           the bytes of the file; a folded batch norm stands for the four
           vectors scale, bias, mean and var
  zeros    of all entries of the tensor
  entropy  order 0, bits per ternary code or per index of a codeword
  bits     per entry of the tensor, 8 bytes / size
  bytes    codes, indices or values, codewords, scales, and the table of the
           codes' model; what tensors share is split in proportion; they add up
           to the file
"""
_EPILOG = """\
Every byte of the file is verified. Exit status: 0; 2 and one line on stderr
where the file cannot be read or is not a good one."""

# The parts of a file that belong to no tensor, and what the table calls them.
_CONTAINER = {
  'preamble': '(preamble and section table)',
  'header': '(header)',
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
        'bits_per_weight': row.bits,
        'bytes': row.num_bytes,
      }
      for row in rows
    ],
    'parts': parts,
    'container_bytes': sum(parts.get(part, 0) for part in _CONTAINER),
  }


def count_dense_bytes(header: headers.Header) -> int:
  """The float32 bytes of a model's parameters and statistics.

  Four times the sizes of all tensors and, for each folded batch norm, of its
  'scale' twice more: its mean and its variance are in no file.
  """
  sizes = {spec.path: math.prod(spec.shape) for spec in header.specs}
  statistics = [sizes[f'params/{norm}/scale'] for norm in header.folded_norms]
  return 4 * (sum(sizes.values()) + 2 * sum(statistics))


def name_encoding(encoding: str, has_contexts: bool = False) -> str:
  """Says an encoding in words."""
  if encoding in layout.DTYPES:
    return layout.DTYPES[encoding][1].name
  codes, scale = _CODES[encoding[0]], layout.SCALES[encoding]
  if encoding in layout.CODEBOOK:
    codes = f'{layout.DTYPES[layout.CODEBOOK[encoding][0]][1].name} {codes}'
  if has_contexts:
    codes += ' by contexts'
  if scale:
    return f'{codes} + {layout.DTYPES[scale][1].name} scale'
  return 'int8 codes' if codes == 'int8' else codes


def escape(text: str) -> str:
  """Makes text harmless for a terminal, and one line of it.

  Control characters, line breaks, marks that turn the direction of writing and
  whatever else is not printable become escape sequences of Python.
  """
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


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
    _shorten(escape(f'{name}: {fact}'), _MAX_LINE)
    for name, fact in facts.items()
  ]
  sections = _make_table(_section_rows(found), '<><')
  layers = _make_table(_layer_rows(found), '<>>>>><')
  return '\n'.join([*lines, '', sections, '', layers])


def format_json(found: Mapping[str, Any]) -> str:
  """Formats a description for machines."""
  return json.dumps(found, sort_keys=True)


def main(argv: Sequence[str]) -> int:
  """Runs the command."""
  parser = _make_parser()
  try:
    arguments = command_line.parse(parser, argv, 'file')
    if arguments.help:
      return _print(parser.format_help().rstrip())
    found = describe(reader.read_bytes(arguments.file), arguments.file)
  except (argparse.ArgumentError, OSError, ValueError) as error:
    return _refuse(str(error), 2)
  except MemoryError:
    return _refuse(f'{arguments.file}: its tensors do not fit in memory', 2)
  return _print(format_json(found) if arguments.json else format_text(found))


def _make_parser() -> argparse.ArgumentParser:
  return command_line.make_parser(
    'python -m hq_jax.artifact.inspect [-h] [--json] FILE',
    _DESCRIPTION,
    _EPILOG,
    'file',
    'an .hq file',
    {
      '--json': {
        'action': 'store_true',
        'help': 'one JSON object with everything',
      }
    },
  )


def _refuse(message: str, status: int) -> int:
  if sys.stderr is not None:  # closed: `print` would take standard output
    print(f'hq_jax: {escape(message)}', file=sys.stderr)
  return status


def _print(text: str) -> int:
  encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
  shown = text.encode(encoding, 'backslashreplace').decode(encoding)
  try:
    print(shown, flush=True)
  except OSError as error:
    # The interpreter flushes once more on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      return _refuse(f'standard output: {error.strerror}', 1)
    # The reader, such as `head`, has what it wanted.
  return 0


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
    name_encoding(layer['encoding'], layer['has_contexts']),
  ]


def _make_table(rows: Sequence[Sequence[str]], sides: str) -> str:
  """Aligned columns with ruled heads; `sides`: < left, > right."""
  heads, *rest = [[escape(cell) for cell in row] for row in rows]
  rule = ['-' * len(head) for head in heads]
  return tabulate.tabulate(
    [heads, rule, *rest],
    tablefmt='plain',
    disable_numparse=True,
    colalign=[{'<': 'left', '>': 'right'}[side] for side in sides],
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
