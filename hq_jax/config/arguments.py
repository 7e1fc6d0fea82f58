"""Arguments of config files: the end of `configs/digits.py:ratio=40`."""

from collections.abc import Iterable, Mapping
import difflib
import types
from typing import Any


def parse_arguments(text: str | None, **defaults: Any) -> types.SimpleNamespace:
  """Parses what follows the colon in `--config=configs/digits.py:ratio=40`.

  >>> parse_arguments('ratio=40,debug', ratio=30.0, debug=False)
  namespace(ratio=40.0, debug=True)

  Args:
    text: `name=value` pairs separated by commas; a name alone is true. A comma
      in a str, such as a path, is part of it where nothing like an argument
      follows.
    **defaults: the arguments that exist, with defaults whose types (bool, int,
      float, str) the values are converted to.

  Returns:
    A namespace with one attribute for each argument.

  Raises:
    ValueError: for an argument that does not exist or does not convert.
  """
  arguments = dict(defaults)
  for pair in filter(None, _split(text or '', defaults)):
    name, equals, value = pair.partition('=')
    if name not in defaults:
      raise ValueError(
        f'config argument {name} is not known, wanted one of:'
        f' {", ".join(defaults)}{suggest(name, defaults)}'
      )
    kind = type(defaults[name])
    try:
      arguments[name] = _convert(kind, value if equals else 'true')
    except ValueError:
      raise ValueError(
        f'config argument {name} is {value!r}, wanted {kind.__name__}'
      ) from None
  return types.SimpleNamespace(**arguments)


def _split(text: str, defaults: Mapping[str, Any]) -> list[str]:
  """Pairs of names and values."""
  pairs: list[str] = []
  in_text = False  # The last argument is a str that may go on.
  for piece in text.rstrip(',').split(','):
    name, equals, _ = piece.partition('=')
    is_meant = name in defaults or suggest(name, defaults)
    if in_text and not is_meant and not (equals and name.isidentifier()):
      pairs[-1] += f',{piece}'
    else:
      pairs.append(piece)
      in_text = bool(equals) and isinstance(defaults.get(name), str)
  return pairs


def suggest(name: str, known: Iterable[str]) -> str:
  """Says which name was perhaps meant, or nothing."""
  close = difflib.get_close_matches(name, list(known), 1)
  return f'; did you mean {close[0]}?' if close else ''


def _convert(kind: type, text: str) -> Any:
  if kind is bool:
    values = {'true': True, 'false': False, '1': True, '0': False}
    if text.lower() not in values:
      raise ValueError(text)
    return values[text.lower()]
  return kind(text)
