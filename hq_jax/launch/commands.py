"""One command of another program, as it is run and as it is printed."""

from collections.abc import Sequence
import shlex
import subprocess
from typing import NamedTuple

_END = 'HQ_JAX_END'  # of a here-document


class Command(NamedTuple):
  """Words, and what the program reads."""

  words: tuple[str, ...]
  text: str = ''  # for its standard input


def format_command(command: Command) -> str:
  r"""Formats a command as one could type it."""
  line = shlex.join(command.words)
  if not command.text:
    return line
  return f"{line} << '{_END}'\n{command.text}{_END}"


def run_all(commands: Sequence[Command], is_dry: bool = False) -> int:
  """Runs commands one after the other, up to the first that fails."""
  for command in commands:
    if is_dry:
      print(format_command(command), flush=True)
      continue
    # A program that reads nothing may still ask something of who is there.
    text = command.text or None
    status = subprocess.run(command.words, input=text, text=True).returncode
    if status != 0:
      return status if status > 0 else 128 - status
  return 0
