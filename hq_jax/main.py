"""The command line: `python -m hq_jax.main --config=FILE --workdir=DIR`."""

from collections.abc import Sequence
import itertools
import operator
import os
import re
import signal
import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config file, such as configs/digits.py:ratio=40.'
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


def _refuse(error: BaseException) -> int:
  """Says in one line what is wrong; `--verbosity=0` shows where."""
  logging.info('refused', exc_info=error)
  lines = str(error).strip().splitlines() or [type(error).__name__]
  print(f'hq_jax: {lines[0]}', file=sys.stderr)
  return 2


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags; what is wrong with them is said in one line."""
  from hq_jax import config as config_lib

  arguments, cleared = [], []
  try:
    for argument, following in itertools.zip_longest(argv[1:], argv[2:]):
      override = re.match(r'--?config\.([\w.]+)(?:=(.*))?$', argument)
      if override:
        name, value = override.groups()
        config_lib.check_field(name, value)
        if value == 'None' and config_lib.is_optional(name):
          cleared.append(name)  # ml_collections would make a text of it.
          continue
      arguments.append(argument)
      file = re.fullmatch(r'--?config(?:=(.*))?', argument)
      if file:
        value = following if file.group(1) is None else file.group(1)
        path = (value or '').partition(':')[0]
        if not os.path.isfile(path):
          raise ValueError(f'config is {path!r}, but there is no such file')
    remaining = flags.FLAGS([*argv[:1], *arguments])
    if len(remaining) > 1:
      raise ValueError(f'argument {remaining[1]!r} is not known')
    if _CONFIG.value is None:
      raise ValueError('config is missing, wanted --config=FILE')
    for name in cleared:
      group, _, field = name.rpartition('.')
      parent = operator.attrgetter(group) if group else lambda config: config
      setattr(parent(_CONFIG.value), field, None)
  except Exception as error:  # A config file may raise anything.
    root: BaseException = error
    # ml_collections puts the traceback of a config file into its message.
    while '\n' in str(root) and (root.__cause__ or root.__context__):
      root = root.__cause__ or root.__context__ or root
    sys.exit(_refuse(root))
  return remaining


def _leave(signal_number: int, frame: object) -> None:
  """Ends the process at an interrupt from the keyboard.

  An exception in its place can get lost in a library's event loop or callback.
  Steps are still under way in XLA's threads, and an interpreter that takes
  itself apart beneath them crashes. What is on the disk is whole.
  """
  del signal_number, frame
  os.write(2, b'hq_jax: interrupted; the same command goes on\n')
  os._exit(130)


def main(argv: Sequence[str]) -> int:
  """Runs what the flags say and returns the exit status."""
  del argv
  # Who started this in the background may have had it ignored.
  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, _leave)
  return _run()


def _run() -> int:
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file.
  from hq_jax import evaluate
  from hq_jax import job as job_lib
  from hq_jax import planner
  from hq_jax import report
  from hq_jax import train

  try:
    if _EVALUATE.value is not None:
      found = evaluate.evaluate_file(_EVALUATE.value, _CONFIG.value)
      print(
        f'{_EVALUATE.value}: test accuracy {found["accuracy"]:.2%} on'
        f' {found["num_examples"]} images, loss {found["loss"]:.4f}'
      )
      return 0
    job = job_lib.prepare(_CONFIG.value, _WORKDIR.value)
  except (ValueError, OSError) as error:
    return _refuse(error)
  print(f'plan: {planner.describe(job.plan)}', flush=True)
  try:
    result = train.run(job)
  except FloatingPointError as error:
    _refuse(error)
    return 1
  except (ValueError, OSError) as error:
    return _refuse(error)
  print(report.format_table(result))
  return 0


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
