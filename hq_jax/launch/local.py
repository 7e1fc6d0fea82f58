"""Several processes on this machine."""

from collections.abc import Sequence
import socket

from hq_jax.launch import commands


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
  num_cpu_devices: int | None = None,
) -> list[tuple[str, ...]]:
  """Makes the commands of one start, which has a port of its own."""
  place = [f'--coordinator=127.0.0.1:{find_free_port()}']
  place.append(f'--num_processes={num_processes}')
  return [
    commands.make_process(
      *(python, arguments, compile_cache, num_cpu_devices),
      (*place, f'--process_id={i}'),
    )
    for i in range(num_processes)
  ]
