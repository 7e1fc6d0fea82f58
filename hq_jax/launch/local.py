"""Several processes on this machine, or one whose partners JAX finds."""

from collections.abc import Callable, Sequence
import socket

from hq_jax.launch import programs


def find_free_port() -> int:
  """Finds a TCP port of 127.0.0.1 that nobody listens on.

  >>> 1024 <= find_free_port() < 65536
  True

  Returns:
    Its number; another program may take it at once.
  """
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return int(probe.getsockname()[1])


def make_commands(
  python: str,
  num_processes: int,
  arguments: Sequence[str],
  compile_cache: str | None = None,
  devices_per_process: int | None = None,
) -> Callable[[int], list[tuple[str, ...]]]:
  """Returns a function that gives the commands for `supervisor.supervise`.

  >>> make = make_commands('python3', 2, ['--config=a.py'])
  >>> [command[-1] for command in make(0)]
  ['--process_id=0', '--process_id=1']

  Args:
    python: the interpreter.
    num_processes: 1 or more.
    arguments: for hq_jax.main.
    compile_cache: see `programs.make_environment`.
    devices_per_process: as there.

  Returns:
    The number of restarts to a command for each process. Their port is a free
    one, another at each call.
  """
  environment = programs.make_environment(compile_cache, devices_per_process)

  def make(restarts: int) -> list[tuple[str, ...]]:
    del restarts
    coordinator = f'127.0.0.1:{find_free_port()}'
    places = [(i, num_processes) for i in range(num_processes)]
    return [
      programs.make_command(python, coordinator, arguments, place, environment)
      for place in places
    ]

  return make


def make_auto_commands(
  python: str, arguments: Sequence[str], compile_cache: str | None = None
) -> Callable[[int], list[tuple[str, ...]]]:
  """Returns a function that gives the one command of a host of a TPU slice.

  >>> make_auto_commands('python3', ['--config=a.py'])(0)[0][-1]
  '--coordinator=auto'

  Args:
    python: the interpreter.
    arguments: for hq_jax.main.
    compile_cache: see `programs.make_environment`.

  Returns:
    The number of restarts to a list of one command.
  """
  environment = programs.make_environment(compile_cache)
  command = programs.make_command(
    python, 'auto', arguments, environment=environment
  )
  return lambda restarts: [command]
