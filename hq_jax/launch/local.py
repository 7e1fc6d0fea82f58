"""Several processes on this machine, or one whose partners JAX finds."""

from collections.abc import Callable, Sequence
import socket

from hq_jax.launch import programs


def find_free_port() -> int:
  """Finds a TCP port of 127.0.0.1 that nobody listens on."""
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
  """Returns a function that gives the commands for `supervisor.supervise`."""
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
  """Returns a function that gives the one command of a host of a TPU slice."""
  environment = programs.make_environment(compile_cache)
  command = programs.make_command(
    python, 'auto', arguments, environment=environment
  )
  return lambda restarts: [command]
