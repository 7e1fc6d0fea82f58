"""Validation: a typed `Config` from a `ConfigDict`, before any compile."""

from collections.abc import Mapping
import contextlib
import dataclasses
import re
import types
import typing
from typing import Any

import ml_collections
from ml_collections import config_dict

from hq_jax.config import arguments
from hq_jax.config import fields as fields_lib


def get_defaults() -> ml_collections.ConfigDict:
  """Every field with its default, to be changed by a config file."""
  return _defaults_of(fields_lib.Config).lock()


def _defaults_of(record: type) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  for field in dataclasses.fields(record):
    if dataclasses.is_dataclass(field.type):
      config[field.name] = _defaults_of(typing.cast(type, field.type))
      continue
    kind = _required_type(field.type)
    optional = kind is not field.type and typing.get_origin(field.type) is (
      types.UnionType
    )
    if optional:
      config[field.name] = config_dict.placeholder(kind)
    if field.default is not None:
      config[field.name] = field.default
  return config


def _required_type(annotation: Any) -> type:
  """`float` for `float | None`, `tuple` for `tuple[int, ...]`."""
  annotation = _require(annotation)
  return typing.get_origin(annotation) or annotation


def _require(annotation: Any) -> Any:
  """What there is besides None."""
  if typing.get_origin(annotation) is types.UnionType:
    (annotation,) = set(typing.get_args(annotation)) - {type(None)}
  return annotation


def validate(config: Mapping[str, Any]) -> fields_lib.Config:
  """Checks every field and returns the typed config."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  result = _build(fields_lib.Config, config, 'config')
  if result.target_ratio is None and result.recipe.sparsity is None:
    raise ValueError(
      'config.target_ratio and config.recipe.sparsity are both None, wanted'
      ' one of them'
    )
  if result.prune.epochs + result.ternary.epochs < 1:
    raise ValueError(
      'config.prune.epochs and config.ternary.epochs are both 0, wanted one'
      ' of them at least 1'
    )
  return result


def _build(record: type, values: Mapping[str, Any], name: str) -> Any:
  fields = {field.name: field for field in dataclasses.fields(record)}
  for key in values:
    if key not in fields:
      raise ValueError(
        f'{name}.{key} is {values[key]!r}, but there is no such field; wanted'
        f' one of: {", ".join(fields)}{arguments.suggest(key, fields)}'
      )
  built = {}
  for key, value in values.items():
    full_name = f'{name}.{key}'
    field = fields[key]
    if dataclasses.is_dataclass(field.type):
      if not isinstance(value, Mapping):
        raise ValueError(f'{full_name} is {value!r}, wanted a group of fields')
      built[key] = _build(typing.cast(type, field.type), value, full_name)
    else:
      built[key] = _check_leaf(field, value, full_name)
  return record(**built)


def _check_leaf(field: dataclasses.Field, value: Any, full_name: str) -> Any:
  kind = _required_type(field.type)
  optional = typing.get_origin(field.type) is types.UnionType
  if value is None and optional:
    return None
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    with contextlib.suppress(OverflowError):
      value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  well_typed = isinstance(value, kind) and (
    kind is bool or not isinstance(value, bool)
  )
  if kind is tuple and well_typed:
    item_kind, _ = typing.get_args(_require(field.type))
    well_typed = all(type(x) is item_kind for x in value)
  if not well_typed:
    wanted = _require(field.type) if kind is tuple else kind.__name__
    raise ValueError(f'{full_name} is {value!r}, wanted {wanted}')
  if 'check' in field.metadata and not field.metadata['check'](value):
    raise ValueError(
      f'{full_name} is {value!r}, wanted {field.metadata["wanted"]}'
    )
  return value


def _list_types(record: Any, prefix: str = '') -> dict[str, Any]:
  """The types of all fields and groups, by names such as 'recipe.ramp'."""
  found = {}
  for field in dataclasses.fields(record):
    found[f'{prefix}{field.name}'] = field.type
    if dataclasses.is_dataclass(field.type):
      found |= _list_types(field.type, f'{prefix}{field.name}.')
  return found


def is_optional(name: str) -> bool:
  """Says whether a field may be None."""
  kind = _list_types(fields_lib.Config)[name]
  return typing.get_origin(kind) is types.UnionType


def check_field(name: str, value: str | None = None) -> None:
  """Refuses a field that does not exist."""
  known = _list_types(fields_lib.Config)
  if name not in known:
    raise ValueError(
      f'config.{name} is {value!r}, but there is no such field'
      f'{arguments.suggest(name, known)}'
    )


def with_field(error: ValueError, prefix: str, record: type) -> ValueError:
  """The same error, by the full name of the field that it begins with."""
  names = {field.name for field in dataclasses.fields(record)}
  first = re.match(r'\w*', str(error))
  if first and first[0] in names:
    return ValueError(f'{prefix}{error}')
  return error


def to_dict(config: fields_lib.Config) -> dict[str, Any]:
  """The config as nested dictionaries that JSON can hold."""
  as_json = lambda pairs: {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in pairs
  }
  return dataclasses.asdict(config, dict_factory=as_json)
