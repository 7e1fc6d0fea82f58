"""The commands for a slice of Cloud TPU VMs; each worker is one host of it.

In the home directory of each worker, `copy` and `install` make `hq_jax` (the
checkout) and `hq_jax_venv`; `tpu_runs` starts what runs there.
"""

import os
import shlex
import tempfile
from typing import NamedTuple

from hq_jax.launch import commands
from hq_jax.launch import values

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
  python: str = '3.12'  # to install; the runtimes bring 3.10


def check(pod: Pod) -> Pod:
  """Checks the fields of a slice."""
  name = r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?'
  values.check_form(
    'name', pod.name, name, 'lower-case letters, digits and -, such as my-pod'
  )
  values.check_form(
    'zone', pod.zone, r'[a-z]+-[a-z]+[0-9]+-[a-z]', 'one such as us-west4-a'
  )
  if pod.project is not None:
    form = r'[a-z][a-z0-9.:-]*[a-z0-9]'
    values.check_form('project', pod.project, form, "a project's id")
  values.check_form(
    'type', pod.type, r'v[0-9][a-z0-9]*-[0-9]+', 'one such as v5litepod-16'
  )
  version = pod.version or _VERSIONS.get(pod.type.partition('-')[0])
  if version is None:
    raise ValueError(
      f'version is missing, wanted a runtime for type {pod.type!r}'
    )
  values.check_form(
    'version', version, r'[a-z0-9][a-z0-9.-]*', 'one such as v2-alpha-tpuv6e'
  )
  if pod.nfs is not None:
    form = r'[A-Za-z0-9][A-Za-z0-9.-]*:/[\w./-]*'
    values.check_form('nfs', pod.nfs, form, 'HOST:/SHARE')
  values.check_path('mount', pod.mount, absolute=True)
  values.check_form(
    'python_version', pod.python, r'3\.[0-9]+', 'one such as 3.12'
  )
  return pod._replace(version=version)


def create(pod: Pod) -> list[commands.Command]:
  """Creates the slice."""
  options = [f'--accelerator-type={pod.type}', f'--version={pod.version}']
  if pod.spot:
    options.append('--spot')
  if pod.nfs is not None:
    # One user id on all workers, so that files of one are files of all.
    options.append('--metadata=enable-oslogin=TRUE')
  return [gcloud(pod, 'create', pod.name, *options)]


def delete(pod: Pod) -> list[commands.Command]:
  """Deletes the slice, without asking."""
  return [gcloud(pod, 'delete', pod.name, '--quiet')]


def copy(pod: Pod, root: str) -> list[commands.Command]:
  """Copies a checkout to all workers, in the place of an older copy."""
  archive = os.path.join(tempfile.gettempdir(), f'hq_jax-{pod.name}.tar.gz')
  excluded = [f'--exclude={pattern}' for pattern in _NOT_COPIED]
  pack = ('tar', '-czf', archive, *excluded, '-C', root, '.')
  target = f'{pod.name}:hq_jax.tar.gz'
  unpack = 'rm -rf hq_jax && mkdir hq_jax && tar -xzf hq_jax.tar.gz -C hq_jax'
  return [
    commands.Command(pack),
    gcloud(pod, 'scp', archive, target, '--worker=all'),
    ssh(pod, unpack),
  ]


def install(pod: Pod) -> list[commands.Command]:
  """Installs the copied checkout on all workers, and mounts the share."""
  steps = [
    'python3 -m pip install --quiet --user uv',
    f'python3 -m uv venv --quiet --clear --python={pod.python} hq_jax_venv',
    'python3 -m uv pip install --quiet --python=hq_jax_venv/bin/python'
    f" --find-links={_WHEELS} --editable=./hq_jax 'jax[tpu]'",
  ]
  return [*mount(pod), ssh(pod, ' && '.join(steps))]


def mount(pod: Pod) -> list[commands.Command]:
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
  return [ssh(pod, f'mountpoint -q {point} || ({" && ".join(steps)})')]


def gcloud(pod: Pod, verb: str, *options: str) -> commands.Command:
  """A command of `gcloud compute tpus tpu-vm`."""
  where = [f'--zone={pod.zone}']
  if pod.project is not None:
    where.append(f'--project={pod.project}')
  words = list(options)
  at = next((i for i, w in enumerate(words) if w.startswith('-')), len(words))
  words[at:at] = where
  return commands.Command(('gcloud', 'compute', 'tpus', 'tpu-vm', verb, *words))


def ssh(pod: Pod, remote: str, worker: str = 'all') -> commands.Command:
  """A command that has workers run something."""
  return gcloud(
    pod, 'ssh', pod.name, f'--worker={worker}', f'--command={remote}'
  )
