"""The launcher's command line."""

import argparse
from collections.abc import Callable, Sequence
import signal
import sys
from typing import Any

from hq_jax.launch import commands
from hq_jax.launch import flags
from hq_jax.launch import local
from hq_jax.launch import slurm
from hq_jax.launch import supervisor
from hq_jax.launch import tpu_vm

_EPILOG = """
Flags of the config (--config.NAME=VALUE) and what is behind `--`, unchecked,
are handed on to hq_jax.main. The exit status is that of the run, or 2 and one
line on stderr where a flag is wrong.
"""
_PATH = flags.form(r'(?!-|[a-z0-9]+://)[^\0\n]+', 'a path')
_CACHE = flags.form(
  r'(gs://|(?!-|[a-z0-9]+://))[^\0\n]+', 'a path, or gs://BUCKET/FOLDER'
)
_WORD = flags.form(r'[\w.,@+-]+', 'a name')


def main(argv: Sequence[str]) -> int:
  """Runs a command, and returns its exit status."""
  at = argv.index('--') if '--' in argv else len(argv)
  try:
    args, rest = _make_parser().parse_known_args(argv[:at])
    args.dry_run = 'dry_run' in args
    args.arguments = [*rest, *argv[at + 1 :]]
    if 'config' in args:
      run = f'--config={args.config}', f'--workdir={args.workdir}'
      args.arguments = [*run, *args.arguments]
    elif args.arguments:
      raise ValueError(f'argument {args.arguments[0]!r} is not known')
    return args.start(args)
  except ValueError as error:
    return _refuse(str(error))
  except OSError as error:
    place = '' if error.filename is None else f'{error.filename}: '
    return _refuse(f'{place}{error.strerror}')
  except KeyboardInterrupt:  # of `logs`, say: whoever typed it knows.
    return 128 + signal.SIGINT


def _refuse(message: str) -> int:
  print(f'hq_jax: {message}', file=sys.stderr)
  return 2


def _make_parser() -> flags.Parser:
  parser = flags.Parser(
    prog='hq-jax launch',
    description='Starts a run on many devices; COMMAND --help tells how.',
    epilog=_EPILOG,
  )
  listed = parser.add_subparsers(metavar='COMMAND', required=True)

  here = _add(listed, 'local', 'several processes on this machine', _local)
  some = flags.count(1, 1000)
  here.add_flag('processes', some, 'the number of processes')
  here.add_flag('devices_per_process', some, 'CPU devices of each', None)

  text = 'the process of this host, whose partners JAX finds'
  auto = _add(listed, 'auto', text, _auto)
  for each in (here, auto):
    seconds = flags.count(0, 86400)
    each.add_flag('grace_seconds', seconds, 'to save and leave', 60)
    each.add_flag('restart_seconds', seconds, 'from a death to a new start', 1)
    _add_run_flags(each, sys.executable)

  text = 'submits a job with one process for each GPU'
  job = _add(listed, 'slurm', text, _slurm)
  job.add_flag('nodes', flags.count(1), 'the number of nodes')
  job.add_flag('gpus_per_node', some, 'the number of GPUs of each')
  job.add_flag('cpus_per_task', flags.count(1), 'to decode images', None)
  time, example = r'([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}', 'one such as 1-12:00:00'
  job.add_flag('time', flags.form(time, example), example, None)
  job.add_flag('partition', _WORD, 'names with commas between', None)
  job.add_flag('account', _WORD, 'who pays', None)
  job.add_flag('job_name', _WORD, 'as squeue shows it', 'hq_jax')
  _add_run_flags(job, '.venv/bin/python', max_restarts=10)

  pods = listed.add_parser('tpu_pod', help='a slice of Cloud TPU VMs')
  verbs = pods.add_subparsers(metavar='VERB', required=True)
  for verb, text, make in (
    ('create', 'makes it', tpu_vm.create),
    ('copy', 'copies this checkout to all workers', tpu_vm.copy),
    ('install', 'installs what was copied', tpu_vm.install),
    ('run', 'starts a run', tpu_vm.run),
    ('logs', 'shows what the run says', tpu_vm.follow),
    ('stop', 'has the run save and leave', tpu_vm.stop),
    ('delete', 'deletes it, without asking', tpu_vm.delete),
  ):
    pod = _add(verbs, verb, text, _tpu_pod)
    pod.set_defaults(make=make)
    _add_pod_flags(pod)
    if verb == 'run':
      _add_run_flags(pod)
  return parser


def _add(
  listed: Any, name: str, text: str, start: Callable[[Any], int]
) -> flags.Parser:
  parser = listed.add_parser(name, help=text, description=text)
  parser.set_defaults(start=start)
  return parser


def _add_run_flags(
  parser: flags.Parser, python: str | None = None, max_restarts: int = 3
) -> None:
  folder = 'a folder that all hosts share, by its path'
  is_folder = flags.form(r'(?![a-z0-9]+://)[^\0\n]+', folder)
  parser.add_flag('config', _PATH, 'the config file of the run')
  parser.add_flag('workdir', is_folder, folder)
  parser.add_flag('compile_cache', _CACHE, 'keeps what was compiled', None)
  parser.add_flag('max_restarts', flags.count(0), 'at most', max_restarts)
  if python is not None:
    parser.add_flag('python', _PATH, 'the interpreter of the run', python)


def _add_pod_flags(parser: flags.Parser) -> None:
  name = r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?'
  for field, pattern, wanted in (
    ('name', name, 'lower-case letters, digits and -, such as my-pod'),
    ('zone', r'[a-z]+-[a-z]+[0-9]+-[a-z]', 'one such as us-west4-a'),
    ('project', r'[a-z][a-z0-9.:-]*[a-z0-9]', "a project's id"),
    ('type', r'v[0-9][a-z0-9]*-[0-9]+', 'one such as v5litepod-16'),
    ('version', r'[a-z0-9][a-z0-9.-]*', 'one such as v2-alpha-tpuv6e'),
    ('nfs', r'[A-Za-z0-9][A-Za-z0-9.-]*:/[\w./-]*', 'HOST:/SHARE'),
    ('mount', r'/[^\0\n]+', 'a path that begins with /'),
    ('python_version', r'3\.[0-9]+', 'one such as 3.12'),
  ):
    default = tpu_vm.Pod._field_defaults.get(field, flags.REQUIRED)
    parser.add_flag(field, flags.form(pattern, wanted), wanted, default)
  text = 'it may be taken away, and costs less'
  parser.add_argument('--spot', action='store_true', help=text)


def _local(args: argparse.Namespace) -> int:
  words = args.python, args.processes, args.arguments
  extra = args.compile_cache, args.devices_per_process
  return _supervise(args, lambda: local.make_commands(*words, *extra))


def _auto(args: argparse.Namespace) -> int:
  command = commands.make_process(
    args.python, args.arguments, args.compile_cache
  )
  return _supervise(args, lambda: [command])


def _supervise(
  args: argparse.Namespace, make_commands: Callable[[], list[tuple[str, ...]]]
) -> int:
  if args.dry_run:
    listed = [commands.Command(words) for words in make_commands()]
    return commands.run_all(listed, is_dry=True)
  policy = args.max_restarts, args.grace_seconds, args.restart_seconds
  return supervisor.supervise(make_commands, supervisor.Policy(*policy))


def _slurm(args: argparse.Namespace) -> int:
  names = ('job_name', 'cpus_per_task', 'time', 'partition', 'account')
  options = {name.replace('_', '-'): getattr(args, name) for name in names}
  script = slurm.make_script(
    commands.make_process(args.python, args.arguments, args.compile_cache),
    *(args.nodes, args.gpus_per_node, args.max_restarts),
    {name: value for name, value in options.items() if value is not None},
  )
  return commands.run_all([commands.Command(('sbatch',), script)], args.dry_run)


def _tpu_pod(args: argparse.Namespace) -> int:
  pod = tpu_vm.Pod(*(getattr(args, field) for field in tpu_vm.Pod._fields))
  if args.make is tpu_vm.run:
    run = (args.arguments, args.max_restarts, args.compile_cache)
    return commands.run_all(tpu_vm.run(pod, *run), args.dry_run)
  return commands.run_all(args.make(pod), args.dry_run)
