"""Starts the processes of a run, watches them, and starts them again."""

from collections.abc import Callable, Sequence
import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from hq_jax.launch import child as child_program
from hq_jax.launch import exit_status
from hq_jax.launch import signals

_POLL_SECONDS = 0.05
# After a death, the others tell by their own ends what it was about.
_SETTLE_SECONDS = 1.0


class Policy(NamedTuple):
  """How patient the supervisor is."""

  max_restarts: int = 3  # in all; progress does not set the count back
  grace_seconds: float = 60.0  # for those who are leaving to save and leave
  restart_seconds: float = 0.0  # between a death and the next start
  # What asks a process to stop, on its standard input; empty: the signal
  # itself, which would end the ssh of a remote one, and not the process.
  stop_text: bytes = b''


def supervise(
  make_commands: Callable[[int], Sequence[Sequence[str]]], policy: Policy
) -> int:
  """Runs processes until all have ended for good.

  When one dies, the others are killed and all start again. A final status of
  one, see `endings.FINAL`, and a SIGTERM, SIGINT or SIGHUP to this process end
  the run: all get `grace_seconds` to leave. A second signal kills them at once.
  """
  restarts = 0
  with signals.Mailbox() as mailbox:
    while True:
      run = _Run(make_commands(restarts), policy, mailbox)
      try:
        verdict = run.watch()
      finally:
        run.kill()
      if verdict.status != 0:
        _say(exit_status.describe(verdict.cause))
      if verdict.is_final:
        return verdict.status
      if restarts >= policy.max_restarts:
        _say(f'that was restart {restarts} of {policy.max_restarts}: giving up')
        return verdict.status
      restarts += 1
      _say(f'starting again: restart {restarts} of {policy.max_restarts}')
      stop = _sleep(policy.restart_seconds, mailbox)
      if stop is not None:
        return 128 + stop


def _say(text: str) -> None:
  print(f'hq_jax: {text}', file=sys.stderr, flush=True)


def _sleep(seconds: float, mailbox: signals.Mailbox) -> int | None:
  """Waits; returns the signal that came meanwhile, if any."""
  end = time.monotonic() + seconds
  while time.monotonic() < end and not mailbox.received:
    time.sleep(_POLL_SECONDS)
  return mailbox.received[0] if mailbox.received else None


class _Run:
  """The processes between one start and the next."""

  def __init__(
    self,
    commands: Sequence[Sequence[str]],
    policy: Policy,
    mailbox: signals.Mailbox,
  ):
    self._policy = policy
    self._mailbox = mailbox
    self._endings: list[exit_status.ProcessExit] = []
    self._deadline: float | None = None
    self._children: list[subprocess.Popen[bytes]] = []
    try:
      for command in commands:
        self._children.append(self._start(command))
    except BaseException:
      self.kill()
      raise

  def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
    reads = subprocess.PIPE if self._policy.stop_text else subprocess.DEVNULL
    # A session of its own: an interrupt from the keyboard goes to all processes
    # of this one, and would arrive twice.
    return subprocess.Popen(
      [
        *(sys.executable, '-I', '-S', child_program.__file__),
        *(str(os.getpid()), *command),
      ],
      stdin=reads,
      start_new_session=True,
    )

  def watch(self) -> exit_status.Decision:
    """Waits until all have ended, and helps where they should and do not."""
    stopped_by: int | None = None
    while len(self._endings) < len(self._children):
      if stopped_by is None and self._mailbox.received:
        stopped_by = self._mailbox.received[0]
        self._ask_to_stop(stopped_by)
        self._allow(self._policy.grace_seconds)
      elif len(self._mailbox.received) > 1:
        break
      if self._collect() and stopped_by is None:
        verdict = exit_status.decide(self._endings)
        is_death = not verdict.is_final
        self._allow(_SETTLE_SECONDS if is_death else self._policy.grace_seconds)
      if self._deadline is not None and time.monotonic() >= self._deadline:
        break
      time.sleep(_POLL_SECONDS)
    return self._conclude(stopped_by)

  def kill(self) -> None:
    """Kills what is left, with all that it started, and waits for it."""
    for process in self._children:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    for process in self._children:
      process.wait()
      if process.stdin is not None:
        process.stdin.close()

  def _conclude(self, stopped_by: int | None) -> exit_status.Decision:
    killed = self._find_late()
    verdict = exit_status.decide([*self._endings, *killed])
    if killed and self._endings:
      told = exit_status.decide(self._endings)
      # That others had finished is no proof that the killed one had.
      verdict = told if told.status != 0 else verdict
    has_own_reason = (
      verdict.is_final and verdict.status not in exit_status.STOPPED
    )
    if stopped_by is None or (has_own_reason and not killed):
      return verdict
    # Whatever they make of the signal, or of the text that stands for it, it is
    # no reason to start again.
    return exit_status.Decision(128 + stopped_by, True, verdict.cause)

  def _collect(self) -> bool:
    """Notes who has ended since; returns whether anybody has."""
    known = {ending.process for ending in self._endings}
    new = [
      exit_status.ProcessExit(i, process.returncode)
      for i, process in enumerate(self._children)
      if i not in known and process.poll() is not None
    ]
    # Who was killed was so first, as far as one look can tell.
    self._endings += sorted(new, key=lambda ending: ending.status)
    return bool(new)

  def _find_late(self) -> list[exit_status.ProcessExit]:
    """What will be of those who have not left in time."""
    ended = {ending.process for ending in self._endings}
    return [
      exit_status.ProcessExit(i, -signal.SIGKILL)
      for i in range(len(self._children))
      if i not in ended
    ]

  def _allow(self, seconds: float) -> None:
    """Everybody must have left after so long, or sooner as was said before."""
    deadline = time.monotonic() + seconds
    self._deadline = min(deadline, self._deadline or deadline)

  def _ask_to_stop(self, number: int) -> None:
    for process in self._children:
      if process.stdin is not None:
        try:
          process.stdin.write(self._policy.stop_text)
          process.stdin.flush()
        except OSError:
          pass  # It has just ended.
      elif process.poll() is None:
        process.send_signal(number)
