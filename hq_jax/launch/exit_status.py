"""What the ends of a run's processes mean, taken together."""

from collections.abc import Sequence
import signal
from typing import NamedTuple

# Exit statuses of hq_jax.main after which the same command would not go on by
# itself: stopped by SIGINT and by SIGTERM; and refused, numbers went wrong.
STOPPED = (130, 143)
FINAL = (2, 3, *STOPPED)


class ProcessExit(NamedTuple):
  """How one process ended."""

  process: int  # its index
  status: int  # as subprocess gives it: negative where a signal killed it


class Decision(NamedTuple):
  """What is to be done about the run."""

  status: int  # 0 to 255
  is_final: bool  # False: a death, after which all processes start again
  cause: ProcessExit


def find_status(ending: ProcessExit) -> int:
  """The status as a shell gives it.

  A process that SIGTERM or SIGINT killed had not come as far as to handle them:
  it counts as stopped, which is what somebody wanted.
  """
  return ending.status if ending.status >= 0 else 128 - ending.status


def decide(endings: Sequence[ProcessExit]) -> Decision:
  """Finds the one ending that explains the others.

  A process that was killed takes the others with it, however they fail.
  Where none was, a final status explains the others: they lost a partner that
  had its reasons. SIGABRT is how JAX leaves when a partner is gone, so it
  explains nothing.
  """
  for ending in endings:
    if find_status(ending) in FINAL:
      return Decision(find_status(ending), True, ending)
    if ending.status < 0 and ending.status != -signal.SIGABRT:
      return Decision(find_status(ending), False, ending)
  for ending in endings:
    if ending.status != 0:
      return Decision(find_status(ending), False, ending)
  return Decision(0, True, endings[0])


def describe(ending: ProcessExit) -> str:
  """Says how a process ended."""
  if ending.status < 0:
    return f'process {ending.process} was killed by signal {-ending.status}'
  return f'process {ending.process} left with status {ending.status}'
