"""The dense network of an earlier run, for another compression of it."""

import json
import os
import shutil
from typing import Any

from hq_jax.core import files
from hq_jax.runtime import distributed
from hq_jax.runtime import workdir as workdir_lib

_STAGE = 'dense'


def check(
  workdir: str, identity: dict[str, Any], num_steps: int, source: str
) -> None:
  """Refuses an earlier run whose dense network is not the one wanted.

  Of a run that has a dense network of its own, nothing is asked.
  """
  if os.path.isdir(_get_step(workdir, num_steps)):
    return
  source = os.path.expanduser(source)
  path = os.path.join(source, workdir_lib.CONFIG)
  begin = f'config.dense_from is {source}'
  try:
    with files.open_regular(path) as file:
      theirs = json.load(file)
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or 'it is damaged'
    raise ValueError(
      f'{begin}, whose {workdir_lib.CONFIG} cannot be read ({reason}), wanted'
      ' the workdir of an earlier run'
    ) from None
  ours = workdir_lib.of_dense(identity)
  differences = workdir_lib.find_differences(workdir_lib.of_dense(theirs), ours)
  if differences:
    raise ValueError(
      f'{begin}, whose dense network is of another config: {differences[0]}'
    )
  if not os.path.isdir(_get_step(source, num_steps)):
    raise ValueError(
      f'{begin}, which has no checkpoint of step {num_steps:,}, wanted a run'
      ' whose dense network is trained to the end'
    )


def take(
  workdir: str, num_steps: int, source: str, history: workdir_lib.History
) -> None:
  """Copies the last dense checkpoint, and the rows of the epochs before it.

  What is there stays: a run goes on without the earlier one. All processes call
  it together, whatever they see of the folder by then.
  """
  source = os.path.expanduser(source)
  steps = {row['step'] for row in history.rows}
  for row in workdir_lib.History(source, is_kept=False).rows:
    if row['phase'] == _STAGE and row['step'] not in steps:
      history.append(row)
  target = _get_step(workdir, num_steps)
  distributed.first_then_others(
    lambda: _copy(_get_step(source, num_steps), target)
  )


def _copy(source: str, target: str) -> None:
  if os.path.isdir(target):  # Of an earlier start, or of the first process.
    return
  part = os.path.join(os.path.dirname(target), 'copy.part')
  shutil.rmtree(part, ignore_errors=True)
  shutil.copytree(source, part)
  os.rename(part, target)


def _get_step(workdir: str, num_steps: int) -> str:
  return os.path.join(workdir, workdir_lib.CHECKPOINTS, _STAGE, str(num_steps))
