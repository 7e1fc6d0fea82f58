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
  """Reads the names of hosts.

  >>> check_hosts('node1,me@node2')
  ('node1', 'me@node2')

  Args:
    text: names or IPv4 addresses with commas between, each with or without a
      user.

  Returns:
    One or more names, the coordinator's first.

  Raises:
    ValueError: where one is empty, not a name, or there twice.
  """
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
  """Returns a function that gives the commands for `supervisor.supervise`.

  >>> make = make_commands('python3', ['a', 'b'], 8476, '/hq', ['--config=c'])
  >>> make(0)[1][-1]  # doctest: +NORMALIZE_WHITESPACE
  'cd /hq && exec python3 -m hq_jax.main --config=c --coordinator=a:8476
   --num_processes=2 --process_id=1'

  Args:
    python: the interpreter on the hosts; a relative path begins at the folder.
    hosts: of `check_hosts`; the others reach the first one by this name.
    port: of the first start. Each restart takes the next one: what is left of
      the start before may hold its own a little longer.
    folder: of the checkout on the hosts.
    arguments: for hq_jax.main.
    compile_cache: see `programs.make_environment`.

  Returns:
    The number of restarts to a command for each host.
  """
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
