"""What the ends of a run's processes mean, taken together."""

from collections.abc import Sequence
import signal
from typing import NamedTuple

# Exit statuses of hq_jax.main after which the same command would not go on by
# itself: stopped by SIGINT and by SIGTERM; and refused, numbers went wrong.
STOPPED = (130, 143)
FINAL = (2, 3, *STOPPED)


class Ending(NamedTuple):
  """How one process ended."""

  process: int  # its index
  status: int  # as subprocess gives it: negative where a signal killed it


class Verdict(NamedTuple):
  """What is to be done about the run."""

  status: int  # 0 to 255
  is_final: bool  # False: a death, after which all processes start again
  cause: Ending


def find_status(ending: Ending) -> int:
  """The status as a shell gives it.

  A process that SIGTERM or SIGINT killed had not come as far as to handle them:
  it counts as stopped, which is what somebody wanted.

  >>> find_status(Ending(0, -9)), find_status(Ending(0, -15))
  (137, 143)

  Args:
    ending: of a process.

  Returns:
    0 to 255.
  """
  return ending.status if ending.status >= 0 else 128 - ending.status


def judge(endings: Sequence[Ending]) -> Verdict:
  """Finds the one ending that explains the others.

  A process that was killed takes the others with it, however they fail.
  Where none was, a final status explains the others: they lost a partner that
  had its reasons. SIGABRT is how JAX leaves when a partner is gone, so it
  explains nothing.

  >>> judge([Ending(1, -9), Ending(0, 2)])
  Verdict(status=137, is_final=False, cause=Ending(process=1, status=-9))
  >>> judge([Ending(0, -6), Ending(1, 2)])
  Verdict(status=2, is_final=True, cause=Ending(process=1, status=2))

  Args:
    endings: one or more, in the order in which they were seen; of processes
      that ended by themselves.

  Returns:
    What to do.
  """
  for ending in endings:
    if find_status(ending) in FINAL:
      return Verdict(find_status(ending), True, ending)
    if ending.status < 0 and ending.status != -signal.SIGABRT:
      return Verdict(find_status(ending), False, ending)
  for ending in endings:
    if ending.status != 0:
      return Verdict(find_status(ending), False, ending)
  return Verdict(0, True, endings[0])


def describe(ending: Ending) -> str:
  """Says how a process ended.

  >>> describe(Ending(1, -9)), describe(Ending(0, 1))
  ('process 1 was killed by signal 9', 'process 0 left with status 1')

  Args:
    ending: of a process.

  Returns:
    A clause.
  """
  if ending.status < 0:
    return f'process {ending.process} was killed by signal {-ending.status}'
  return f'process {ending.process} left with status {ending.status}'
