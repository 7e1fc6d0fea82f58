"""Text for a terminal: what a command prints, and its one line of refusal."""

import os
import sys


def escape(text: str) -> str:
  """Makes text harmless for a terminal, and one line of it.

  Control characters, line breaks, marks that turn the direction of writing and
  whatever else is not printable become escape sequences of Python.
  """
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


def refuse(message: str, status: int = 2) -> int:
  """Prints one line on stderr and returns the exit status."""
  if sys.stderr is not None:  # closed: `print` would take standard output
    print(f'hq_jax: {escape(message.strip())}', file=sys.stderr)
  return status


def show(text: str) -> int:
  """Prints text, as far as standard output goes; returns the exit status."""
  encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
  shown = text.encode(encoding, 'backslashreplace').decode(encoding)
  try:
    print(shown, flush=True)
  except OSError as error:
    # The interpreter flushes once more on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      return refuse(f'standard output: {error.strerror}', 1)
    # The reader, such as `head`, has what it wanted.
  return 0
