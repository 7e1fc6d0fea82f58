"""The watch over the processes of a run: started together, and again."""

from collections.abc import Callable, Sequence
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from hq_jax.launch import child as child_program
from hq_jax.launch import exit_status

_POLL_SECONDS = 0.05
# After a death, the others tell by their own ends what it was about.
_SETTLE_SECONDS = 1.0
_MOST_BETWEEN_LOOKS_SECONDS = 1.0


class Policy(NamedTuple):
  """How patient the supervisor is."""

  max_restarts: int = 3  # in all; progress does not set the count back
  grace_seconds: float = 60.0  # for those who are leaving to save and leave
  restart_seconds: float = 0.0  # between a death and the next start
  frozen_seconds: float = 30.0  # for those whom a signal has stopped


def supervise(
  make_commands: Callable[[], Sequence[Sequence[str]]], policy: Policy
) -> int:
  """Runs processes until all have ended for good.

  When one dies, the others are killed and all start again. A final status of
  one, see `exit_status.FINAL`, and a SIGTERM, SIGINT or SIGHUP to this process
  end the run: all get `grace_seconds` to leave. A second signal kills them at
  once. One that SIGSTOP or the like has frozen for `frozen_seconds` is killed.
  """
  restarts = 0
  with _Mailbox() as mailbox:
    while True:
      run = _Run(make_commands(), policy, mailbox)
      try:
        decision = run.watch()
      finally:
        run.kill()
      if decision.status != 0:
        _say(exit_status.describe(decision.cause))
      if decision.is_final:
        return decision.status
      if restarts >= policy.max_restarts:
        _say(f'that was restart {restarts} of {policy.max_restarts}: giving up')
        return decision.status
      restarts += 1
      _say(f'starting again: restart {restarts} of {policy.max_restarts}')
      end = time.monotonic() + policy.restart_seconds
      while time.monotonic() < end and not mailbox.received:
        time.sleep(_POLL_SECONDS)
      if mailbox.received:
        return 128 + mailbox.received[0]


def _say(text: str) -> None:
  print(f'hq_jax: {text}', file=sys.stderr, flush=True)


class _Mailbox:
  """Notes the signals that ask to stop: SIGTERM and SIGINT, in their order.

  A hang-up counts as SIGTERM, since nobody is there any more to see to the
  rest. A signal that was ignored before stays so, as those of `nohup` do.
  """

  def __init__(self) -> None:
    self.received: list[int] = []
    self._before: dict[int, Any] = {}

  def __enter__(self) -> '_Mailbox':
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      handler = signal.getsignal(number)
      if handler is not signal.SIG_IGN:
        self._before[number] = handler
        signal.signal(number, self._note)
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: object) -> None:
    del frame
    self.received.append(15 if number == signal.SIGHUP else number)


class _Run:
  """The processes between one start and the next."""

  def __init__(
    self, commands: Sequence[Sequence[str]], policy: Policy, mailbox: _Mailbox
  ):
    self._policy = policy
    self._mailbox = mailbox
    self._exits: list[exit_status.ProcessExit] = []
    self._deadline = math.inf
    # For how many seconds each has been found frozen, without a break, and when
    # it was looked at.
    self._frozen: dict[int, float] = {}
    self._last_look = time.monotonic()
    self._children: list[subprocess.Popen[bytes]] = []
    try:
      for command in commands:
        child = (sys.executable, '-I', '-S', child_program.__file__)
        self._children.append(
          subprocess.Popen(
            [*child, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            # An interrupt from the keyboard goes to all processes of this
            # session, and would arrive twice.
            start_new_session=True,
          )
        )
    except BaseException:
      self.kill()
      raise

  def watch(self) -> exit_status.Decision:
    """Waits until all have ended, and helps where they should and do not."""
    stopped_by: int | None = None
    while len(self._exits) < len(self._children):
      if stopped_by is None and self._mailbox.received:
        stopped_by = self._mailbox.received[0]
        for child in self._children:
          if child.poll() is None:
            child.send_signal(stopped_by)
        self._allow(self._policy.grace_seconds)
      elif len(self._mailbox.received) > 1:
        break
      if self._collect() and stopped_by is None:
        is_death = not exit_status.decide(self._exits).is_final
        self._allow(_SETTLE_SECONDS if is_death else self._policy.grace_seconds)
      if time.monotonic() >= self._deadline:
        break
      self._kill_frozen()
      time.sleep(_POLL_SECONDS)
    return self._decide(stopped_by)

  def kill(self) -> None:
    """Kills what is left, with all that it started, and waits for it."""
    for child in self._children:
      if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    for child in self._children:
      child.wait()

  def _kill_frozen(self) -> None:
    """Kills who has been frozen too long; its end is a death."""
    if not hasattr(os, 'waitid'):  # On some systems other than Linux.
      return
    now = time.monotonic()
    # All of them may have been suspended for a while, with this process.
    passed = min(now - self._last_look, _MOST_BETWEEN_LOOKS_SECONDS)
    self._last_look = now
    for i, child in enumerate(self._children):
      how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
      if child.returncode is None and os.waitid(os.P_PID, child.pid, how):
        self._frozen[i] = self._frozen.get(i, 0.0) + passed
      else:
        self._frozen.pop(i, None)
      if self._frozen.get(i, 0.0) > self._policy.frozen_seconds:
        seconds = self._policy.frozen_seconds
        _say(f'process {i} has been frozen for {seconds:g} seconds, killing it')
        os.killpg(child.pid, signal.SIGKILL)
        self._frozen.pop(i)

  def _decide(self, stopped_by: int | None) -> exit_status.Decision:
    # Who has not left in time will be killed.
    late = set(range(len(self._children))) - {e.process for e in self._exits}
    killed = [exit_status.ProcessExit(i, -signal.SIGKILL) for i in sorted(late)]
    decision = exit_status.decide([*self._exits, *killed])
    if killed and self._exits:
      told = exit_status.decide(self._exits)
      # That others had finished is no proof that the killed one had.
      decision = told if told.status != 0 else decision
    is_own = decision.is_final and decision.status not in exit_status.STOPPED
    if stopped_by is None or (is_own and not killed):
      return decision
    # Whatever they make of the signal, it is no reason to start again.
    return exit_status.Decision(128 + stopped_by, True, decision.cause)

  def _collect(self) -> bool:
    """Notes who has ended since; returns whether anybody has."""
    known = {exit_.process for exit_ in self._exits}
    new = [
      exit_status.ProcessExit(i, child.returncode)
      for i, child in enumerate(self._children)
      if i not in known and child.poll() is not None
    ]
    # Who was killed was so first, as far as one look can tell.
    self._exits += sorted(new, key=lambda exit_: exit_.status)
    return bool(new)

  def _allow(self, seconds: float) -> None:
    """Everybody must have left after so long, or sooner as was said before."""
    self._deadline = min(self._deadline, time.monotonic() + seconds)
