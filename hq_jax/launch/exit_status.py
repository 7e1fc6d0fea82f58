"""Exit statuses of a run's processes, and what is to be done about them."""

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


def find_status(exit_: ProcessExit) -> int:
  """The status as a shell gives it."""
  # A process that SIGTERM or SIGINT killed had not come as far as to handle
  # them: it counts as stopped, which is what somebody wanted.
  return exit_.status if exit_.status >= 0 else 128 - exit_.status


def decide(exits: Sequence[ProcessExit]) -> Decision:
  """Finds the one exit that explains the others.

  A process that was killed takes the others with it, however they fail.
  Where none was, a final status explains the others: they lost a partner that
  had its reasons. SIGABRT is how JAX leaves when a partner is gone, so it
  explains nothing.
  """
  for exit_ in exits:
    if find_status(exit_) in FINAL:
      return Decision(find_status(exit_), True, exit_)
    if exit_.status < 0 and exit_.status != -signal.SIGABRT:
      return Decision(find_status(exit_), False, exit_)
  for exit_ in exits:
    if exit_.status != 0:
      return Decision(find_status(exit_), False, exit_)
  return Decision(0, True, exits[0])


def describe(exit_: ProcessExit) -> str:
  """Says how a process ended."""
  if exit_.status < 0:
    return f'process {exit_.process} was killed by signal {-exit_.status}'
  return f'process {exit_.process} left with status {exit_.status}'
