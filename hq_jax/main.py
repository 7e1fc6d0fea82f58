"""The command line: `python -m hq_jax.main --config=FILE --workdir=DIR`."""

from collections.abc import Sequence
import errno
import itertools
import operator
import os
import re
import signal
import sys
import textwrap
import traceback
import typing
from typing import NoReturn

from hq_jax.core import extras
from hq_jax.runtime import terminal

try:
  from absl import app
  from absl import flags
  from absl import logging
  from ml_collections import config_flags
except ModuleNotFoundError as error:
  print(f'hq_jax: {extras.explain(error, "training")}', file=sys.stderr)
  sys.exit(2)

if typing.TYPE_CHECKING:
  from hq_jax.runtime import preemption

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'A config that comes along, such as digits or digits:ratio=40, or a file.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  '',
  'The folder of the run; a run that was interrupted goes on there.',
)
_EVALUATE = flags.DEFINE_string(
  'evaluate',
  None,
  "An .hq file: prints its accuracy on the config's test set, and trains"
  ' nothing.',
)
_COMPILE_ONLY = flags.DEFINE_string(
  'compile_only',
  None,
  'A slice of TPUs, such as v5e:16x16, which need not be at hand: compiles for'
  ' it what the run would compile, prints memory, collectives and operations,'
  ' and trains nothing.',
)
_COMPILE_CACHE = flags.DEFINE_string(
  'compile_cache',
  None,
  'The folder, or gs://BUCKET/FOLDER, where compiled programs are kept for the'
  ' next start, ~/.cache/hq_jax by default; it may be deleted. Empty: none.',
)

_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Of a run of several processes: HOST:PORT of the first of them, or auto where'
  ' JAX finds it (Cloud TPU, Slurm, Open MPI).',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes, with HOST:PORT.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0, with HOST:PORT.'
)
# Exit statuses: a death, after which the same command goes on, and numbers that
# went wrong.
_DIED = 1
_NOT_FINITE = 3
# Persistent errors of a disk: the same command would meet them again.
_LASTING = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
  *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


def _refuse(error: BaseException, what: str = 'training') -> int:
  """Says in one line what is wrong; `--verbosity=0` shows where."""
  logging.info('refused', exc_info=error)
  if isinstance(error, ModuleNotFoundError):
    error = extras.explain(error, what)
  text = str(error)
  if isinstance(error, OSError) and error.errno and error.filename is None:
    # What a write says names no file.
    text = text.replace(f'[Errno {error.errno}]', f'{_WORKDIR.value}:')
  # What a library says may be a page; what a file says may be anything.
  lines = text.strip().split('\n')
  return terminal.refuse(lines[0] or type(error).__name__)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags; what is wrong with them is said in one line."""
  arguments, cleared = [], []
  is_help = argument_is_file = False
  path = shown = ''
  try:
    from hq_jax import config as config_lib
    from hq_jax.config import files

    pretrained = _find_value(argv, 'config.pretrained')
    for argument in argv[1:]:
      if re.fullmatch('--?help', argument):
        is_help = True
        continue
      override = re.match(r'--?config\.([\w.]+)(?:=(.*))?$', argument)
      if override:
        name, value = override.groups()
        config_lib.check_field(name, value)
        if value == 'None' and config_lib.is_optional(name):
          cleared.append(name)  # ml_collections would make a text of it.
          continue
      file = re.fullmatch(r'(--?config=)(.*)', argument)
      if file or argument_is_file:
        start, value = file.groups() if file else ('', argument)
        name, colon, rest = value.partition(':')
        path = files.find(name)
        if pretrained:
          rest = files.add_argument(path, rest, 'pretrained', pretrained)
        argument = f'{start}{path}{":" if rest else colon}{rest}'
      argument_is_file = argument in ('-config', '--config')
      arguments.append(argument)
    remaining = flags.FLAGS([*argv[:1], *arguments])
    if len(remaining) > 1:
      raise ValueError(f'argument {remaining[1]!r} is not known')
    if _CONFIG.value is None and not is_help:
      raise ValueError('config is missing, wanted --config=FILE')
    for name in cleared:
      group, _, field = name.rpartition('.')
      parent = operator.attrgetter(group) if group else lambda config: config
      setattr(parent(_CONFIG.value), field, None)
    if is_help:
      shown = (
        config_lib.describe(path, _CONFIG.value) if path else _describe_flags()
      )
  except Exception as error:  # A config file may raise anything.
    root: BaseException = error
    # ml_collections puts the traceback of a config file into its message.
    while '\n' in str(root) and (root.__cause__ or root.__context__):
      root = root.__cause__ or root.__context__ or root
    sys.exit(_refuse(root))
  if is_help:
    sys.exit(terminal.show(shown))
  return remaining


def _find_value(argv: Sequence[str], name: str) -> str:
  """The last value of a flag, behind `=` or in a word of its own; or ''."""
  value = ''
  for word, after in itertools.pairwise([*argv, '']):
    flag, equals, inside = word.partition('=')
    if flag in (f'-{name}', f'--{name}'):
      value = inside if equals else after
  return '' if value == 'None' else value


def _describe_flags() -> str:
  """What `--help` says where it is said of no config."""
  names = ('config', 'workdir', 'evaluate', 'compile_only', 'compile_cache')
  lines = [
    textwrap.fill(
      f'--{name}: {flags.FLAGS[name].help}', 78, subsequent_indent=' ' * 4
    )
    for name in (*names, 'coordinator', 'num_processes', 'process_id')
  ]
  more = [
    '--config=FILE --help: what a config takes, all its fields and defaults.',
    '--helpfull: all flags, those of absl and JAX too.',
  ]
  return '\n'.join([str(__doc__), '', *lines, *more])


def main(argv: Sequence[str]) -> int:
  """Runs what the flags say and returns the exit status."""
  del argv
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  # After the flags: what they import takes seconds.
  from hq_jax.runtime import address_space

  try:
    address_space.check(address_space.TRAINING_BYTES)
  except ValueError as error:
    return _refuse(error)
  if _COMPILE_ONLY.value is not None:
    return _compile_only(_COMPILE_ONLY.value)
  from hq_jax.runtime import backend
  from hq_jax.runtime import compile_cache
  from hq_jax.runtime import distributed
  from hq_jax.runtime import preemption

  listener = preemption.listen()
  try:
    warning = compile_cache.keep(_COMPILE_CACHE.value)
    distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    backend.start()
  except ValueError as error:
    return _refuse(error)
  # JAX may have a handler of its own by now, for SIGTERM alone.
  listener.take_signals()
  if not distributed.is_primary():
    warning = None
  if distributed.is_single_process():
    return _run(listener, warning)
  try:
    status = _run(listener, warning)
  except Exception:
    traceback.print_exc()
    status = _DIED
  if status:
    # At the end an interpreter waits for the other processes, which may wait
    # for this one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def _run(listener: 'preemption.Listener', warning: str | None) -> int:
  from hq_jax.runtime import preemption

  try:
    if _EVALUATE.value is not None:
      return _evaluate(_EVALUATE.value, warning)
    return _train(listener, warning)
  except preemption.Stopped as stopped:
    name = signal.Signals(stopped.signal_number).name
    print(
      f'hq_jax: {name}: {stopped}; the same command goes on', file=sys.stderr
    )
    return 128 + stopped.signal_number
  except FloatingPointError as error:
    _refuse(error)
    return _NOT_FINITE
  except (ValueError, OSError, MemoryError, ModuleNotFoundError) as error:
    return _refuse(error)


def _compile_only(topology: str) -> int:
  from hq_jax.runtime import backend
  from hq_jax.training import compile_only

  try:
    backend.start()
    compile_only.run(_CONFIG.value, topology)
  except (ValueError, OSError, ModuleNotFoundError) as error:
    return _refuse(error, 'compile_only')
  return 0


def _evaluate(path: str, warning: str | None) -> int:
  from hq_jax.runtime import distributed
  from hq_jax.training import evaluate

  found = evaluate.evaluate_file(path, _CONFIG.value)
  if warning:
    terminal.refuse(warning)
  if distributed.is_primary():
    terminal.show(
      f'{terminal.escape(path)}: test accuracy {found["accuracy"]:.2%} on'
      f' {found["num_examples"]} images, loss {found["loss"]:.4f}'
    )
  return 0


def _train(listener: 'preemption.Listener', warning: str | None) -> int:
  from hq_jax.runtime import checkpoint
  from hq_jax.runtime import preemption
  from hq_jax.training import setup as setup_lib
  from hq_jax.training import train

  if not flags.FLAGS['verbosity'].present:
    checkpoint.silence_orbax()
  setup = setup_lib.prepare(_CONFIG.value, _WORKDIR.value)
  if warning:  # Now, so that a refusal is one line.
    terminal.refuse(warning)
  with setup_lib.claim(setup):
    listener.watch = preemption.Watch(setup.mesh)
    try:
      train.run(setup, listener.watch)
    except OSError as error:
      if error.errno in _LASTING:
        raise
      _refuse(error)
      return _DIED
  return 0


def run(argv: list[str] | None = None) -> NoReturn:
  """Runs the program and leaves with its exit status; None for `sys.argv`."""
  app.run(main, argv, flags_parser=_parse_flags)
  raise AssertionError  # `app.run` does not return.


if __name__ == '__main__':
  run()
