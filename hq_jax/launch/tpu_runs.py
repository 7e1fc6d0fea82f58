"""A run on a slice of Cloud TPU VMs: started, followed, stopped.

It is the systemd unit `hq_jax` of each worker: it outlives the connection that
started it, gets its SIGTERM when the machine is taken away, and cannot be there
twice.
"""

from collections.abc import Sequence
import re
import shlex

from hq_jax.launch import commands
from hq_jax.launch import tpu_vm

_UNIT = 'hq_jax'
# Longer than JAX takes to notice that a partner is gone (100 s): when a process
# starts again, none of the start before is left.
_RESTART_SECONDS = 120
_STOP_SECONDS = 90


def run(
  pod: tpu_vm.Pod,
  arguments: Sequence[str],
  max_restarts: int,
  compile_cache: str | None = None,
) -> list[commands.Command]:
  """Mounts the share and starts the run on all workers, unless that is so."""
  launcher = [
    *('-m', 'hq_jax.launch', 'auto'),
    f'--max_restarts={max_restarts}',
    f'--restart_seconds={_RESTART_SECONDS}',
    *([f'--compile_cache={compile_cache}'] if compile_cache else []),
    *('--', *arguments),
  ]
  # systemd replaces $NAME in a command, and $$ by $.
  words = shlex.join(word.replace('$', '$$') for word in launcher)
  # What it saves to must outlast it when a worker is shut down.
  order = ' --property=After="network-online.target remote-fs.target"'
  if pod.nfs is not None:
    # systemd splits the value at blanks, after the shell has.
    folder = shlex.quote(shlex.quote(pod.mount))
    order += f' --property=RequiresMountsFor={folder}'
  return [
    *tpu_vm.mount(pod),
    tpu_vm.ssh(
      pod,
      f'systemctl is-active --quiet {_UNIT} || sudo systemd-run'
      f' --unit={_UNIT} --collect --uid="$(id -u)" --gid="$(id -g)"'
      ' --working-directory="$HOME/hq_jax" --property=KillMode=mixed'
      f' --property=TimeoutStopSec={_STOP_SECONDS}{order}'
      ' --property=StandardOutput=append:"$HOME/hq_jax.log"'
      ' --property=StandardError=append:"$HOME/hq_jax.log"'
      f' "$HOME/hq_jax_venv/bin/python" {words}',
    ),
  ]


def stop(pod: tpu_vm.Pod) -> list[commands.Command]:
  """Has the run save and leave, on all workers."""
  return [tpu_vm.ssh(pod, f'sudo systemctl stop {_UNIT}')]


def follow(pod: tpu_vm.Pod) -> list[commands.Command]:
  """Shows what the run has said, and goes on to; worker 0 tells of progress."""
  return [tpu_vm.ssh(pod, 'tail -n 100 -F hq_jax.log', worker='0')]


def find_state(pod: tpu_vm.Pod) -> commands.Command:
  """Asks for the state of the slice: prints nothing where there is none."""
  pattern = f'--filter=name~/nodes/{re.escape(pod.name)}$'
  return tpu_vm.gcloud(pod, 'list', pattern, '--format=value(state)')


def find_activity(pod: tpu_vm.Pod) -> commands.Command:
  """Asks whether the run goes on."""
  return tpu_vm.ssh(pod, f'systemctl is-active {_UNIT} || true', worker='0')
