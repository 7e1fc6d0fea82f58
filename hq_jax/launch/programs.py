"""The training program's command, as one of the processes of a run."""

from collections.abc import Mapping, Sequence
import re

from hq_jax.launch import values

# Flags of hq_jax.main that a launcher hands on. A misspelt flag is found here,
# not on a machine that was paid for.
_HANDED_ON = r'--?(config(\.[\w.]+)?|workdir|verbosity)(=.*)?'


def check_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
  """Checks the arguments for hq_jax.main as far as one can without it."""
  arguments, unchecked = split(arguments)
  previous = ''
  for argument in arguments:
    is_value = previous and '=' not in previous and not argument.startswith('-')
    if not is_value and not re.fullmatch(_HANDED_ON, argument, re.DOTALL):
      raise ValueError(f'argument {argument!r} is not known')
    previous = '' if is_value else argument
  handed_on = (*arguments, *unchecked)
  _find(handed_on, 'config', '--config=FILE')
  workdir = _find(handed_on, 'workdir', '--workdir=FOLDER')
  values.check_form(
    'workdir',
    workdir,
    r'(?![a-z0-9]+://)[^\0\n]+',
    'a folder that all hosts share, by its path',
  )
  return handed_on


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Splits arguments at the first `--`."""
  listed = list(arguments)
  if '--' not in listed:
    return listed, []
  at = listed.index('--')
  return listed[:at], listed[at + 1 :]


def make_command(
  python: str,
  coordinator: str,
  arguments: Sequence[str],
  place: tuple[int, int] | None = None,
  environment: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
  """The command of one process."""
  variables = [f'{name}={value}' for name, value in (environment or {}).items()]
  words = [*(['env', *variables] if variables else []), python]
  words += ['-m', 'hq_jax.main', *arguments, f'--coordinator={coordinator}']
  if place is not None:
    index, count = place
    words += [f'--num_processes={count}', f'--process_id={index}']
  return tuple(words)


def make_environment(
  compile_cache: str | None, devices_per_process: int | None = None
) -> dict[str, str]:
  """The variables that a run's processes are started with."""
  environment = {}
  if devices_per_process is not None:
    environment['JAX_PLATFORMS'] = 'cpu'
    environment['JAX_NUM_CPU_DEVICES'] = str(devices_per_process)
  if compile_cache is not None:
    environment['JAX_COMPILATION_CACHE_DIR'] = compile_cache
  return environment


def _find(arguments: Sequence[str], name: str, wanted: str) -> str:
  """The last value of a flag: the one that counts."""
  found = None
  for i, argument in enumerate(arguments):
    match = re.fullmatch(rf'--?{name}(?:=(.*))?', argument, re.DOTALL)
    if match:
      following = arguments[i + 1] if i + 1 < len(arguments) else None
      found = following if match[1] is None else match[1]
  if not found:
    raise ValueError(f'{name} is missing, wanted {wanted}')
  return found
