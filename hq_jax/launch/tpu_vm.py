"""Commands for a slice of Cloud TPU VMs; each worker is one host of it.

In the home directory of each worker, `copy` and `install` make `hq_jax` (the
checkout) and `hq_jax_venv`. A run is the systemd unit `hq_jax` of each worker:
it outlives the connection that started it, gets its SIGTERM when the machine is
taken away, and cannot be there twice.
"""

from collections.abc import Sequence
import os
import shlex
import tempfile
from typing import NamedTuple

from hq_jax.launch import commands

_WHEELS = 'https://storage.googleapis.com/jax-releases/libtpu_releases.html'
# The runtime that Google gives for JAX, by the beginning of the type.
_VERSIONS = {
  'v2': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v4': 'tpu-ubuntu2204-base',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
# What of a checkout no worker needs. The commit, in .git, goes into reports.
_NOT_COPIED = ('./runs', './.venv*', '__pycache__', '.*_cache', '*.egg-info')

_UNIT = 'hq_jax'
# Longer than JAX takes to notice that a partner is gone (100 s): when a process
# starts again, none of the start before is left.
_RESTART_SECONDS = 120
_STOP_SECONDS = 90


class Pod(NamedTuple):
  """What a slice is called, and what it is made of."""

  name: str
  zone: str
  project: str | None = None  # None: that of gcloud's configuration
  type: str = 'v5litepod-16'
  version: str | None = None  # of the runtime; None: that of the type
  spot: bool = False
  nfs: str | None = None  # HOST:/SHARE
  mount: str = '/mnt/hq_jax'  # where the share appears
  python_version: str = '3.12'  # to install; the runtimes bring 3.10


def create(pod: Pod) -> list[commands.Command]:
  """Creates the slice."""
  version = pod.version or _VERSIONS.get(pod.type.partition('-')[0])
  if version is None:
    raise ValueError(
      f'version is missing, wanted a runtime for type {pod.type!r}'
    )
  options = [f'--accelerator-type={pod.type}', f'--version={version}']
  if pod.spot:
    options.append('--spot')
  if pod.nfs is not None:
    # One user id on all workers, so that files of one are files of all.
    options.append('--metadata=enable-oslogin=TRUE')
  return [_gcloud(pod, 'create', pod.name, *options)]


def delete(pod: Pod) -> list[commands.Command]:
  """Deletes the slice, without asking."""
  return [_gcloud(pod, 'delete', pod.name, '--quiet')]


def copy(pod: Pod, root: str = '.') -> list[commands.Command]:
  """Copies a checkout to all workers, in the place of an older copy."""
  archive = os.path.join(tempfile.gettempdir(), f'hq_jax-{pod.name}.tar.gz')
  excluded = [f'--exclude={pattern}' for pattern in _NOT_COPIED]
  pack = ('tar', '-czf', archive, *excluded, '-C', root, '.')
  target = f'{pod.name}:hq_jax.tar.gz'
  unpack = 'rm -rf hq_jax && mkdir hq_jax && tar -xzf hq_jax.tar.gz -C hq_jax'
  return [
    commands.Command(pack),
    _gcloud(pod, 'scp', archive, target, '--worker=all'),
    _ssh(pod, unpack),
  ]


def install(pod: Pod) -> list[commands.Command]:
  """Installs the copied checkout on all workers, and mounts the share."""
  steps = [
    'python3 -m pip install --quiet --user uv',
    'python3 -m uv venv --quiet --clear'
    f' --python={pod.python_version} hq_jax_venv',
    'python3 -m uv pip install --quiet --python=hq_jax_venv/bin/python'
    f" --find-links={_WHEELS} --editable='./hq_jax[train,report,tpu]'",
  ]
  return [*_mount(pod), _ssh(pod, ' && '.join(steps))]


def _mount(pod: Pod) -> list[commands.Command]:
  """Mounts the share on all workers: again, after they were rebooted."""
  if pod.nfs is None:
    return []
  point = shlex.quote(pod.mount)
  steps = [
    # Fresh machines install updates at that time.
    'sudo apt-get -o DPkg::Lock::Timeout=600 -qq update',
    'sudo apt-get -o DPkg::Lock::Timeout=600 -qq install -y nfs-common',
    f'sudo mkdir -p {point}',
    f'sudo mount -t nfs {pod.nfs} {point}',
    f'sudo chmod go+rw {point}',
  ]
  return [_ssh(pod, f'mountpoint -q {point} || ({" && ".join(steps)})')]


def run(
  pod: Pod,
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
    # What follows --config and --workdir has been checked.
    *(*arguments[:2], '--', *arguments[2:]),
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
    *_mount(pod),
    _ssh(
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


def stop(pod: Pod) -> list[commands.Command]:
  """Has the run save and leave, on all workers."""
  return [_ssh(pod, f'sudo systemctl stop {_UNIT}')]


def follow(pod: Pod) -> list[commands.Command]:
  """Shows what the run has said, and goes on to; worker 0 tells of progress."""
  return [_ssh(pod, 'tail -n 100 -F hq_jax.log', worker='0')]


def _gcloud(pod: Pod, verb: str, *options: str) -> commands.Command:
  """A command of `gcloud compute tpus tpu-vm`."""
  words = [verb, f'--zone={pod.zone}']
  if pod.project is not None:
    words.append(f'--project={pod.project}')
  return commands.Command(
    ('gcloud', 'compute', 'tpus', 'tpu-vm', *words, *options)
  )


def _ssh(pod: Pod, remote: str, worker: str = 'all') -> commands.Command:
  """A command that has workers run something."""
  return _gcloud(
    pod, 'ssh', pod.name, f'--worker={worker}', f'--command={remote}'
  )
