"""Moments of a quick run at which something happens to it."""

from collections.abc import Callable
import os
import pathlib
import random
import signal
import time
from typing import NamedTuple

from tests import runs

_NUM_SAVES = 16  # of a quick run
_TEMPORARY = '.orbax-checkpoint-tmp'


class Moment(NamedTuple):
  """When a process is killed.

  Attributes:
    num_saves: so many saves have ended, or 0.
    delay_seconds: since then; None for the middle of the next save.
  """

  num_saves: int
  delay_seconds: float | None


def draw(seed: int) -> Moment:
  """A moment of any phase; of each five, two in the middle of a save."""
  rng = random.Random(seed)
  if seed % 5 in (1, 3):
    return Moment(rng.randrange(_NUM_SAVES - 1), None)
  # After the last save, files are written and evaluated for a second or two.
  num_saves = rng.randrange(_NUM_SAVES + 1)
  return Moment(num_saves, rng.uniform(0, 2 if num_saves == 0 else 0.5))


def find_saves(workdir: pathlib.Path) -> dict[str, bool]:
  """The folders of the saves that can be seen, and whether they are whole."""
  return {
    str(path.relative_to(workdir)).removesuffix(_TEMPORARY): (
      not path.name.endswith(_TEMPORARY)
    )
    for path in workdir.glob('checkpoints/*/*')
  }


def wait(
  running: runs.Running,
  workdir: pathlib.Path,
  num_saves: int,
  is_saving_then: bool = False,
) -> None:
  """Waits until so many saves have ended, and perhaps the next has begun."""
  ended: set[str] = set()  # Older ones are deleted meanwhile.

  def has_come() -> bool:
    saves = find_saves(workdir)
    ended.update(name for name, is_whole in saves.items() if is_whole)
    if len(ended) < num_saves or not (workdir / 'config.json').exists():
      return False
    return not is_saving_then or not all(saves.values())

  running.wait_until(has_come)


def kill(
  running: runs.Running,
  workdir: pathlib.Path,
  moment: Moment,
  find_process: Callable[[], int],
) -> None:
  """Waits for the moment, and kills a process with signal 9."""
  in_save = moment.delay_seconds is None
  while True:
    wait(running, workdir, moment.num_saves, in_save)
    time.sleep(moment.delay_seconds or 0)
    assert running.process.poll() is None, 'it ended before it was killed'
    process = find_process()
    # Stands still, so that nothing ends between this look and the end.
    os.kill(process, signal.SIGSTOP)
    if not in_save or is_saving(workdir):
      os.kill(process, signal.SIGKILL)
      return
    os.kill(process, signal.SIGCONT)


def is_saving(workdir: pathlib.Path) -> bool:
  return not all(find_saves(workdir).values())


def find_process(launcher, number):
  """The process of the run with a number, once it is the program."""
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      parent = int((path / 'stat').read_text().rpartition(')')[2].split()[1])
      words = (path / 'cmdline').read_text().split('\0')
    except (OSError, IndexError):
      continue  # It has just ended.
    if parent == launcher and f'--process_id={number}' in words:
      return int(path.name)
  raise AssertionError(f'there is no process {number}')
