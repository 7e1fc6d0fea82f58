"""One process on each of several hosts, over ssh."""

from collections.abc import Callable, Sequence
import shlex

from hq_jax.launch import programs
from hq_jax.launch import values

# What the remote terminal turns into a SIGINT for the process. A signal to ssh
# itself would end ssh, and the process with it before it could save.
STOP_TEXT = b'\x03'
# After a death; a remote process takes a while to notice that its ssh is gone,
# and holds the run's folder until then.
RESTART_SECONDS = '10'

# A terminal (-tt) ties the process to the connection: where ssh is killed or
# the network breaks, it gets a hang-up. Nobody is there to type a password.
_SSH = (
  *('ssh', '-tt'),
  *('-o', 'BatchMode=yes'),
  *('-o', 'ConnectTimeout=30'),
  *('-o', 'ServerAliveInterval=15'),
  *('-o', 'ServerAliveCountMax=4'),
)


def check_hosts(text: str | None) -> tuple[str, ...]:
  """Reads the names of hosts."""
  wanted = 'different names with commas between, such as node1,node2'
  word = r'([A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*'
  values.check_form('hosts', text, rf'{word}(,{word})*', wanted)
  hosts = tuple(str(text).split(','))
  if len(set(hosts)) < len(hosts):
    raise ValueError(f'hosts is {text!r}, wanted {wanted}')
  return hosts


def make_commands(
  python: str,
  hosts: Sequence[str],
  port: int,
  folder: str,
  arguments: Sequence[str],
  compile_cache: str | None = None,
) -> Callable[[int], list[tuple[str, ...]]]:
  """Returns a function that gives the commands for `supervisor.supervise`."""
  environment = programs.make_environment(compile_cache)
  first = hosts[0].rpartition('@')[2]

  def make(restarts: int) -> list[tuple[str, ...]]:
    coordinator = f'{first}:{port + restarts}'
    commands: list[tuple[str, ...]] = []
    for i, host in enumerate(hosts):
      program = programs.make_command(
        python, coordinator, arguments, (i, len(hosts)), environment
      )
      # The remote shell splits it into words again.
      remote = f'cd {shlex.quote(folder)} && exec {shlex.join(program)}'
      commands.append((*_SSH, host, remote))
    return commands

  return make
