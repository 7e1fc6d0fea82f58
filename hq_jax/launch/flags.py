"""The flags of each command of `hq_jax.launch`, and their help."""

import argparse
from collections.abc import Sequence

from hq_jax.launch import programs

HELP = """\
usage: python -m hq_jax.launch COMMAND [FLAGS] --config=FILE --workdir=FOLDER

  local    several processes on this machine
    --processes=N [--devices_per_process=D, CPU devices] [--python=FILE]
  hosts    one process on each host, over ssh; the first one coordinates
    --hosts=A,B,... [--port=8476] [--folder=FOLDER of the checkout there]
    [--python=.venv/bin/python]
  slurm    submits a job with one process for each GPU
    --nodes=N --gpus_per_node=G [--time=1-00:00:00] [--partition=P]
    [--account=A] [--job_name=hq_jax] [--cpus_per_task=C]
    [--python=.venv/bin/python]
  tpu_pod  Cloud TPU VMs: create, copy, install, run, logs, stop, resume, delete
    VERB --name=N --zone=Z [--project=P] [--type=v5litepod-16] [--version=V]
    [--spot] [--nfs=HOST:/SHARE] [--mount=/mnt/hq_jax] [--python_version=3.12]
    [--watch, with resume: again after each preemption]
  xpk      a workload on Google Kubernetes Engine
    --cluster=C --workload=W --tpu_type=T [--num_slices=1] [--project=P]
    [--zone=Z] [--image=I | --base_docker_image=python:3.12]
  auto     the process of this host, whose partners JAX finds
    [--python=FILE]

All of them: --dry_run prints what would be run, --compile_cache=FOLDER keeps
what was compiled, --max_restarts=3 (slurm: 10). The first two and auto:
--grace_seconds=60 to save and leave, --restart_seconds=1 (hosts: 10) before a
new start.
What else is given goes to hq_jax.main; behind `--`, unchecked.

Exit status: that of the run; 2 and one line on stderr where a flag is wrong."""

# Flags that stand alone, and those with a value, by command.
_SWITCHES = ('dry_run', 'spot', 'watch')
_COMMON = ('dry_run', 'compile_cache', 'max_restarts')
_WATCHED = (*_COMMON, 'python', 'grace_seconds', 'restart_seconds')
_FLAGS = {
  'local': (*_WATCHED, 'processes', 'devices_per_process'),
  'hosts': (*_WATCHED, 'hosts', 'port', 'folder'),
  'auto': _WATCHED,
  'slurm': (
    *(*_COMMON, 'python', 'nodes', 'gpus_per_node', 'cpus_per_task'),
    *('time', 'partition', 'account', 'job_name'),
  ),
  'tpu_pod': (
    *(*_COMMON, 'name', 'zone', 'project', 'type', 'version', 'spot'),
    *('nfs', 'mount', 'python_version', 'watch'),
  ),
  'xpk': (
    *(*_COMMON, 'cluster', 'workload', 'tpu_type', 'num_slices', 'project'),
    *('zone', 'image', 'base_docker_image'),
  ),
}


def parse(
  command: str, argv: Sequence[str]
) -> tuple[dict[str, str | None], list[str]]:
  """Splits arguments into a command's flags and the rest."""
  known, behind = programs.split(argv)
  parser = argparse.ArgumentParser(
    add_help=False, allow_abbrev=False, exit_on_error=False
  )
  for flag in _FLAGS[command]:
    if flag in _SWITCHES:
      parser.add_argument(f'--{flag}', action='store_const', const='')
    else:
      parser.add_argument(f'--{flag}')
  found, rest = parser.parse_known_args(known)
  return vars(found), [*rest, *(['--', *behind] if '--' in argv else [])]
