"""Help on a config file and on every field."""

import ast
from collections.abc import Iterator, Mapping
import dataclasses
import inspect
import pathlib
import re
import textwrap
from typing import Any

from hq_jax.config import fields as fields_lib


def describe(path: str, config: Mapping[str, Any]) -> str:
  """Says what a config file says of itself, and what its fields mean."""
  source = pathlib.Path(path).read_text(encoding='utf-8')
  lines = [
    ast.get_docstring(ast.parse(source)) or path,
    '\nFields, as this config and its arguments set them:',
    *_describe_fields(fields_lib.Config, config, '--config.'),
  ]
  return '\n'.join(lines)


def _describe_fields(
  record: Any, values: Mapping[str, Any], prefix: str
) -> Iterator[str]:
  meanings = _get_meanings(record)
  # A group comes behind the fields that are in none.
  for field in sorted(
    dataclasses.fields(record), key=lambda x: dataclasses.is_dataclass(x.type)
  ):
    name, value = f'{prefix}{field.name}', values[field.name]
    meaning = meanings[field.name]
    if dataclasses.is_dataclass(field.type):
      yield f'\n{name}: {meaning}'
      yield from _describe_fields(field.type, value, f'{name}.')
      continue
    notes = [] if value == field.default else [f'default {field.default}']
    notes += filter(None, [field.metadata.get('wanted')])
    yield f'  {name}={value}' + (f'  ({"; ".join(notes)})' if notes else '')
    yield textwrap.indent(textwrap.fill(meaning, 72), ' ' * 8)


def _get_meanings(record: type) -> dict[str, str]:
  """What docstrings say under `Attributes`, of what is inherited too."""
  found: dict[str, str] = {}
  for base in record.__mro__[::-1]:
    _, _, section = (inspect.getdoc(base) or '').partition('Attributes:\n')
    for name, text in re.findall(
      r'^  (\w+): (.*(?:\n {4}.*)*)', section, re.MULTILINE
    ):
      found[name] = ' '.join(text.split())
  return found
