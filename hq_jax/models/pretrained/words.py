"""Words for names and errors that a file may have chosen."""

from collections.abc import Mapping, Sequence
import os

# How many names of a kind an error spells out.
_SHOWN = 3


def quote(name: str) -> str:
  """A name in a line of its own length: a file may call things anything."""
  return repr(name)[1:-1][:80]


def list_some(items: Sequence[str]) -> str:
  """The first items of a list, and how many more there are."""
  more = len(items) - _SHOWN
  return ', '.join(items[:_SHOWN]) + (f' and {more} more' if more > 0 else '')


def first_line(error: Exception) -> str:
  """What an error says in short: those of PyTorch fill a page."""
  return describe(type(error), str(error))


def describe(kind: type[Exception], said: str) -> str:
  """An error of a kind by its first line."""
  lines = said.strip().splitlines() or ['']
  return f'{kind.__name__}: {repr(lines[0][:120])[1:-1]}'.removesuffix(': ')


def check_total(
  sizes: Mapping[str, int], limit: int, path: str | os.PathLike[str]
) -> None:
  """Refuses what takes more bytes than a file like this should."""
  total = sum(sizes.values())
  if total > limit:
    largest = max(sizes, key=lambda name: sizes[name])
    raise ValueError(
      f'{path}: unfolds to {total:,} bytes (most of them {quote(largest)}),'
      f' wanted at most {limit:,}'
    )
