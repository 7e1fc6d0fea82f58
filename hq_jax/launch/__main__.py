"""Starts a run on many machines: `python -m hq_jax.launch slurm --nodes=2 ...`.

It needs neither JAX nor any other package.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import signal
import sys

from hq_jax.launch import commands
from hq_jax.launch import flags as flags_lib
from hq_jax.launch import hosts
from hq_jax.launch import local
from hq_jax.launch import programs
from hq_jax.launch import resuming
from hq_jax.launch import slurm
from hq_jax.launch import supervisor
from hq_jax.launch import tpu_runs
from hq_jax.launch import tpu_vm
from hq_jax.launch import values
from hq_jax.launch import xpk

_PORT = '8476'
_VERBS = (
  *('create', 'copy', 'install', 'run', 'logs', 'stop', 'resume', 'delete'),
)

# What was typed for each flag of a command; see `flags.parse`.
_Values = Mapping[str, str | None]


def main(argv: Sequence[str]) -> int:
  """Runs the command."""
  known, _ = programs.split(argv)
  if '--help' in known or '-h' in known:
    print(flags_lib.HELP)
    return 0
  try:
    if not argv or argv[0] not in _COMMANDS:
      listed = ', '.join(_COMMANDS)
      given = repr(argv[0]) if argv else 'missing'
      raise ValueError(f'COMMAND is {given}, wanted one of {listed}')
    flags, arguments = flags_lib.parse(argv[0], argv[1:])
    return _COMMANDS[argv[0]](flags, arguments)
  except (argparse.ArgumentError, ValueError) as error:
    return _refuse(str(error))
  except OSError as error:
    place = '' if error.filename is None else f'{error.filename}: '
    return _refuse(f'{place}{error.strerror}')
  except KeyboardInterrupt:  # of `logs`, say: whoever typed it knows.
    return 128 + signal.SIGINT


def _refuse(message: str) -> int:
  print(f'hq_jax: {message}', file=sys.stderr)
  return 2


def _supervise(
  flags: _Values,
  make_commands: Callable[[int], list[tuple[str, ...]]],
  stop_text: bytes = b'',
  restart_seconds: str = '1',
) -> int:
  day = 86400
  policy = supervisor.Policy(
    max_restarts=_count(flags, 'max_restarts', 0, '3'),
    grace_seconds=_count(flags, 'grace_seconds', 0, '60', day),
    restart_seconds=_count(flags, 'restart_seconds', 0, restart_seconds, day),
    stop_text=stop_text,
  )
  if flags['dry_run'] is not None:
    listed = [commands.Command(words) for words in make_commands(0)]
    return commands.run_all(listed, is_dry=True)
  return supervisor.supervise(make_commands, policy)


def _local(flags: _Values, arguments: list[str]) -> int:
  devices = flags['devices_per_process']
  make = local.make_commands(
    _python(flags, sys.executable),
    values.check_count('processes', flags['processes'], 1, 1000),
    programs.check_arguments(arguments),
    _cache(flags),
    None
    if devices is None
    else values.check_count('devices_per_process', devices, 1, 1000),
  )
  return _supervise(flags, make)


def _auto(flags: _Values, arguments: list[str]) -> int:
  make = local.make_auto_commands(
    _python(flags, sys.executable),
    programs.check_arguments(arguments),
    _cache(flags),
  )
  return _supervise(flags, make)


def _hosts(flags: _Values, arguments: list[str]) -> int:
  restarts = _count(flags, 'max_restarts', 0, '3')
  make = hosts.make_commands(
    _python(flags, '.venv/bin/python'),
    hosts.check_hosts(flags['hosts']),
    _count(flags, 'port', 1024, _PORT, max(1024, 65535 - restarts)),
    values.check_path(
      'folder', _given(flags, folder='folder').get('folder', os.getcwd())
    ),
    programs.check_arguments(arguments),
    _cache(flags),
  )
  return _supervise(flags, make, hosts.STOP_TEXT, hosts.RESTART_SECONDS)


def _slurm(flags: _Values, arguments: list[str]) -> int:
  word = r'[\w.,@+-]+'
  forms = {
    'time': (r'([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}', 'one such as 1-12:00:00'),
    'partition': (word, 'names with commas between'),
    'account': (word, 'a name'),
    'job_name': (word, 'a name'),
  }
  given = {'job_name': 'hq_jax', **_given(flags, **{n: n for n in forms})}
  options = [
    (name.replace('_', '-'), values.check_form(name, given[name], *forms[name]))
    for name in forms
    if name in given
  ]
  cpus = flags['cpus_per_task']
  script = slurm.make_script(
    _python(flags, '.venv/bin/python'),
    programs.check_arguments(arguments),
    values.check_count('nodes', flags['nodes'], 1),
    values.check_count('gpus_per_node', flags['gpus_per_node'], 1, 1000),
    _count(flags, 'max_restarts', 0, '10'),
    options,
    None if cpus is None else values.check_count('cpus_per_task', cpus, 1),
    _cache(flags),
  )
  is_dry = flags['dry_run'] is not None
  return commands.run_all([slurm.make_submission(script)], is_dry)


def _tpu_pod(flags: _Values, arguments: list[str]) -> int:
  verb = arguments[0] if arguments else None
  if verb not in _VERBS:
    given = 'missing' if verb is None else repr(verb)
    raise ValueError(f'VERB is {given}, wanted one of {", ".join(_VERBS)}')
  pod = tpu_vm.check(
    tpu_vm.Pod(
      name=flags['name'],  # type: ignore[arg-type]  # check refuses None
      zone=flags['zone'],  # type: ignore[arg-type]
      project=flags['project'],
      version=flags['version'],
      spot=flags['spot'] is not None,
      nfs=flags['nfs'],
      **_given(flags, type='type', mount='mount', python='python_version'),
    )
  )
  is_dry = flags['dry_run'] is not None
  if verb not in ('run', 'resume'):
    if arguments[1:]:
      raise ValueError(f'argument {arguments[1]!r} is not known')
    steps = {
      'create': tpu_vm.create,
      'copy': lambda pod: tpu_vm.copy(pod, os.getcwd()),
      'install': tpu_vm.install,
      'logs': tpu_runs.follow,
      'stop': tpu_runs.stop,
      'delete': tpu_vm.delete,
    }
    return commands.run_all(steps[verb](pod), is_dry)
  max_restarts = _count(flags, 'max_restarts', 0, '3')
  handed_on = programs.check_arguments(arguments[1:])
  run = tpu_runs.run(pod, handed_on, max_restarts, _cache(flags))
  if verb == 'run':
    return commands.run_all(run, is_dry)
  if is_dry:
    listed = resuming.plan(pod, 'PREEMPTED', os.getcwd(), run)
    return commands.run_all([tpu_runs.find_state(pod), *listed], is_dry)
  watch_seconds = 60.0 if flags['watch'] is not None else None
  return resuming.resume(pod, os.getcwd(), run, max_restarts, watch_seconds)


def _xpk(flags: _Values, arguments: list[str]) -> int:
  if flags['image'] is not None and flags['base_docker_image'] is not None:
    raise ValueError(
      f'image is {flags["image"]!r}, wanted it or base_docker_image, not both'
    )
  workload = xpk.check(
    xpk.Workload(
      cluster=flags['cluster'],  # type: ignore[arg-type]  # check refuses None
      name=flags['workload'],  # type: ignore[arg-type]
      tpu_type=flags['tpu_type'],  # type: ignore[arg-type]
      num_slices=_count(flags, 'num_slices', 1, '1'),
      project=flags['project'],
      zone=flags['zone'],
      image=flags['image'],
      max_restarts=_count(flags, 'max_restarts', 0, '3'),
      **_given(flags, base_image='base_docker_image'),
    )
  )
  handed_on = programs.check_arguments(arguments)
  create = xpk.create(workload, os.getcwd(), handed_on, _cache(flags))
  return commands.run_all([create], flags['dry_run'] is not None)


def _count(
  flags: _Values, name: str, least: int, default: str, most: int = 10**6
) -> int:
  given = flags[name]
  text = default if given is None else given
  return values.check_count(name, text, least, most)


def _python(flags: _Values, default: str) -> str:
  given = flags['python']
  return default if given is None else values.check_path('python', given)


def _cache(flags: _Values) -> str | None:
  given = flags['compile_cache']
  return None if given is None else values.check_path('compile_cache', given)


def _given(flags: _Values, **names: str) -> dict[str, str]:
  """The values of flags that were typed, by the names of fields."""
  found = {field: flags[name] for field, name in names.items()}
  return {field: value for field, value in found.items() if value is not None}


_COMMANDS: Mapping[str, Callable[[_Values, list[str]], int]] = {
  'local': _local,
  'hosts': _hosts,
  'slurm': _slurm,
  'tpu_pod': _tpu_pod,
  'xpk': _xpk,
  'auto': _auto,
}


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
