"""Checks of what was typed: each error is one line that names the flag."""

import re


def check_count(
  name: str, value: str | int | None, least: int, most: int = 10**6
) -> int:
  """Reads a whole number.

  >>> check_count('processes', '2', least=1)
  2
  >>> check_count('processes', '0', least=1)
  Traceback (most recent call last):
  ValueError: processes is '0', wanted a whole number of 1 to 1000000

  Args:
    name: of the flag.
    value: what was typed, in decimal digits; None where nothing was.
    least: the smallest number that is allowed, 0 or more.
    most: the largest one.

  Returns:
    The number.

  Raises:
    ValueError: for anything else.
  """
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
  """Checks that a text has a form.

  >>> check_form('zone', 'us-central2-b', r'[a-z0-9-]+', 'such as us-west4-a')
  'us-central2-b'
  >>> check_form('zone', '', r'[a-z0-9-]+', 'one such as us-west4-a')
  Traceback (most recent call last):
  ValueError: zone is '', wanted one such as us-west4-a

  Args:
    name: of the flag.
    value: what was typed; None where nothing was.
    form: a regular expression for all of it.
    wanted: the form in words.

  Returns:
    The text.

  Raises:
    ValueError: where it has another form, or is missing.
  """
  if value is None:
    raise ValueError(f'{name} is missing, wanted {wanted}')
  if not re.fullmatch(form, value):
    raise ValueError(f'{name} is {value!r}, wanted {wanted}')
  return value


def check_path(name: str, value: str | None, absolute: bool = False) -> str:
  """Checks the name of a file or folder, which may lie on another machine.

  >>> check_path('mount', '/mnt/hq_jax', absolute=True)
  '/mnt/hq_jax'
  >>> check_path('compile_cache', 'gs://bucket/cache')
  Traceback (most recent call last):
  ValueError: compile_cache is 'gs://bucket/cache', wanted a path

  Args:
    name: of the flag.
    value: what was typed; None where nothing was.
    absolute: whether it must begin with a slash.

  Returns:
    The path.

  Raises:
    ValueError: for a path of another kind, an address, or nothing.
  """
  wanted = 'a path that begins with /' if absolute else 'a path'
  form = r'/[^\0\n]+' if absolute else r'(?!-|[a-z]+://)[^\0\n]+'
  return check_form(name, value, form, wanted)
