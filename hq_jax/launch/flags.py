"""Command-line flags whose errors are one line that names the flag."""

import argparse
from collections.abc import Callable
import difflib
import re
from typing import Any

REQUIRED: Any = object()  # in place of a default

# Arguments of hq_jax.main that are handed on as they are.
_HANDED_ON = r'--(config\.[\w.]+|verbosity)(=.*)?'


class Parser(argparse.ArgumentParser):
  """A parser that raises ValueError, and knows what was misspelt.

  What it does not take is for hq_jax.main. Each has --dry_run, which may thus
  come before a command and behind it.
  """

  def __init__(self, **kwargs: Any):
    super().__init__(allow_abbrev=False, **kwargs)
    self._required: dict[str, str] = {}
    self.add_argument(
      '--dry_run',
      action='store_true',
      default=argparse.SUPPRESS,
      help='prints what would be run',
    )

  def add_flag(
    self,
    name: str,
    type_: Callable[[str], object],
    text: str,
    default: object = REQUIRED,
  ) -> None:
    """Adds a flag with a value, and how it is described."""
    if default is REQUIRED:
      self._required[name], default = text, None
      text += ' (required)'
    elif default is not None:
      text += ' (default: %(default)s)'
    self.add_argument(f'--{name}', type=type_, default=default, help=text)

  def error(self, message: str) -> Any:
    """Raises; what `count` and `form` say begins with the flag's name."""
    raise ValueError(re.sub(r'^argument --(\w+): (?=is )', r'\1 ', message))

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parses, and checks what is not known, and then what is missing."""
    found, rest = super().parse_known_args(args, namespace)
    is_value = False  # of the flag before
    for word in rest:
      if not is_value and not re.fullmatch(_HANDED_ON, word, re.DOTALL):
        flag = word.partition('=')[0]
        names = {f'--{name}' for name in vars(found)} - {flag}
        near = difflib.get_close_matches(flag, sorted(names), 1, cutoff=0.7)
        hint = f', did you mean {near[0]}?' if near else ''
        raise ValueError(f'argument {word!r} is not known{hint}')
      is_value = not is_value and '=' not in word
    for name, text in self._required.items():
      if getattr(found, name) is None:
        raise ValueError(f'{name} is missing, wanted {text}')
    return found, rest


def count(least: int, most: int = 10**6) -> Callable[[str], int]:
  """The type of a whole number."""
  wanted = f'a whole number of {least} to {most}'

  def parse(text: str) -> int:
    if not re.fullmatch(r'[0-9]{1,9}', text) or not least <= int(text) <= most:
      raise argparse.ArgumentTypeError(f'is {text!r}, wanted {wanted}')
    return int(text)

  return parse


def form(pattern: str, wanted: str) -> Callable[[str], str]:
  """The type of a text that has a form."""

  def parse(text: str) -> str:
    if not re.fullmatch(pattern, text):
      raise argparse.ArgumentTypeError(f'is {text!r}, wanted {wanted}')
    return text

  return parse
