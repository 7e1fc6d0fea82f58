"""A workload for xpk: TPU slices of Google Kubernetes Engine."""

from collections.abc import Sequence
import shlex
from typing import NamedTuple

from hq_jax.launch import commands
from hq_jax.launch import programs
from hq_jax.launch import values

# xpk starts again after 42 and 127 to 255 alone: after signals, that is, 130
# and 143, but neither after 2 and 3 nor after an exception in Python: 1.
_DEATH = 1
# Until Kubernetes kills who was told to save and leave.
_GRACE_SECONDS = 120


class Workload(NamedTuple):
  """What to run, and on what."""

  cluster: str
  name: str
  tpu_type: str
  num_slices: int = 1
  project: str | None = None  # None: that of gcloud's configuration
  zone: str | None = None
  image: str | None = None  # with all installed
  base_image: str = 'python:3.12'  # to which the checkout is added
  max_restarts: int = 3


def check(workload: Workload) -> Workload:
  """Checks the fields of a workload."""
  name = r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?'
  wanted = 'lower-case letters, digits and -'
  values.check_form('cluster', workload.cluster, name, wanted)
  values.check_form('workload', workload.name, name, wanted)
  values.check_form(
    'tpu_type', workload.tpu_type, r'[a-z0-9]+-[0-9x]+', 'one such as v6e-16'
  )
  optional = {'project': workload.project, 'zone': workload.zone}
  for field, value in optional.items():
    if value is not None:
      form = r'[a-z][a-z0-9.:-]*[a-z0-9]'
      values.check_form(field, value, form, f"a {field}'s name")
  form = r'[a-z0-9][\w./:@-]*'
  images = {'image': workload.image, 'base_docker_image': workload.base_image}
  for field, value in images.items():
    if value is not None:
      values.check_form(field, value, form, 'such as python:3.12')
  return workload


def create(
  workload: Workload,
  root: str,
  arguments: Sequence[str],
  compile_cache: str | None = None,
) -> commands.Command:
  """Hands a run to a cluster."""
  python = 'python3'
  program = programs.make_command(
    python,
    'auto',
    arguments,
    environment=programs.make_environment(compile_cache),
  )
  # The signal that asks to save goes to the shell that runs this.
  line = f'exec {shlex.join(program)}'
  if workload.image is None:
    setup = (python, '-m', 'pip', 'install', '-q', '-e', '.', 'jax[tpu]')
    line = f'{shlex.join(setup)} && {line}'
    images = [f'--base-docker-image={workload.base_image}']
    images.append(f'--script-dir={root}')
  else:
    images = [f'--docker-image={workload.image}']
  where = {'project': workload.project, 'zone': workload.zone}
  words = [
    *('xpk', 'workload', 'create', f'--cluster={workload.cluster}'),
    *(f'--{field}={value}' for field, value in where.items() if value),
    f'--workload={workload.name}',
    f'--tpu-type={workload.tpu_type}',
    f'--num-slices={workload.num_slices}',
    f'--max-restarts={workload.max_restarts}',
    f'--restart-on-exit-codes={_DEATH}',
    f'--termination-grace-period-seconds={_GRACE_SECONDS}',
    *images,
    f'--command={line}',
  ]
  return commands.Command(tuple(words))
