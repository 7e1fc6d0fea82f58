"""The provenance of a result: commit, versions, hardware."""

from importlib import metadata
import os
import platform
import shlex
import subprocess
import sys

import jax

_MAX_COMMAND = 4000
_PACKAGES = ('jax', 'flax', 'optax', 'numpy', 'constriction')


def get_commit() -> str:
  """The commit of this package's source, `-dirty` where it was changed."""
  here = os.path.dirname(os.path.abspath(__file__))
  # An installed package may lie in somebody else's checkout.
  if _git(here, 'ls-files', '--error-unmatch', '__init__.py') is None:
    return 'unknown'
  commit = _git(here, 'rev-parse', 'HEAD')
  if not commit:
    return 'unknown'
  changed = _git(here, 'status', '--porcelain', '--untracked-files=no')
  return f'{commit}-dirty' if changed else commit


def _git(folder: str, *arguments: str) -> str | None:
  try:
    done = subprocess.run(
      ['git', '-C', folder, *arguments],
      capture_output=True,
      text=True,
      timeout=30,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def get_command() -> str:
  """The command of this process, as a shell takes it; cut where it is long."""
  return shlex.join(sys.orig_argv)[:_MAX_COMMAND]


def get_environment() -> dict[str, str]:
  """What the last bits of a run depend on, beside its config.

  XLA divides sums on a CPU among its cores, and the instructions of a CPU
  decide how it adds.
  """
  device = jax.devices()[0]
  found = {'devices': f'{jax.device_count()} x {device.device_kind}'}
  if device.platform == 'cpu':
    cores = (
      len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 0
    )
    found |= {'cores': str(cores or os.cpu_count()), 'cpu': _get_cpu()}
  return found | {name: metadata.version(name) for name in ('jax', 'jaxlib')}


def _get_cpu() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
      lines = [line.partition(':') for line in file]
  except OSError:
    return platform.processor() or platform.machine()
  names = [x.strip() for name, _, x in lines if name.strip() == 'model name']
  return names[0] if names else platform.machine()


def get_hardware() -> dict[str, str]:
  """The machine and the versions, as plain strings."""
  device = jax.devices()[0]
  return {
    'device': f'{jax.device_count()} x {device.device_kind}',
    'platform': device.platform,
    'cpu_cores': str(os.cpu_count()),
    'machine': platform.machine(),
    'python': platform.python_version(),
  } | {name: metadata.version(name) for name in _PACKAGES}
