"""Commands: of a run's processes, and of other programs."""

from collections.abc import Sequence
import shlex
import subprocess
from typing import NamedTuple

_END = 'HQ_JAX_END'  # of a here-document


class Command(NamedTuple):
  """A command of another program."""

  words: tuple[str, ...]
  text: str = ''  # for its standard input


def run_all(commands: Sequence[Command], is_dry: bool = False) -> int:
  """Runs commands up to the first that fails, or prints them to be typed."""
  for command in commands:
    if is_dry:
      here = f" << '{_END}'\n{command.text}{_END}" if command.text else ''
      print(f'{shlex.join(command.words)}{here}', flush=True)
      continue
    # A program that reads nothing may still ask something of who is there.
    text = command.text or None
    status = subprocess.run(command.words, input=text, text=True).returncode
    if status != 0:
      return status if status > 0 else 128 - status
  return 0


def make_process(
  python: str,
  arguments: Sequence[str],
  compile_cache: str | None = None,
  num_cpu_devices: int | None = None,
  place: Sequence[str] = ('--coordinator=auto',),
) -> tuple[str, ...]:
  """Makes the command of one of a run's processes, which knows its place."""
  variables = []
  if num_cpu_devices is not None:
    variables.append('JAX_PLATFORMS=cpu')
    variables.append(f'JAX_NUM_CPU_DEVICES={num_cpu_devices}')
  environment = ('env', *variables) if variables else ()
  cache = () if compile_cache is None else (f'--compile_cache={compile_cache}',)
  words = *arguments, *cache, *place
  return (*environment, python, '-m', 'hq_jax.main', *words)
