"""Checks of what was typed: each error is one line that names the flag."""

import re


def check_count(
  name: str, value: str | int | None, least: int, most: int = 10**6
) -> int:
  """Reads a whole number."""
  wanted = f'a whole number of {least} to {most}'
  if value is None:
    raise ValueError(f'{name} is missing, wanted {wanted}')
  digits = str(value)
  if (
    not re.fullmatch(r'[0-9]{1,9}', digits) or not least <= int(digits) <= most
  ):
    raise ValueError(f'{name} is {value!r}, wanted {wanted}')
  return int(digits)


def check_form(name: str, value: str | None, form: str, wanted: str) -> str:
  """Checks that a text has a form."""
  if value is None:
    raise ValueError(f'{name} is missing, wanted {wanted}')
  if not re.fullmatch(form, value):
    raise ValueError(f'{name} is {value!r}, wanted {wanted}')
  return value


def check_path(name: str, value: str | None, absolute: bool = False) -> str:
  """Checks the name of a file or folder, which may lie on another machine."""
  wanted = 'a path that begins with /' if absolute else 'a path'
  form = r'/[^\0\n]+' if absolute else r'(?!-|[a-z]+://)[^\0\n]+'
  return check_form(name, value, form, wanted)
