"""Signals that are noted, and acted upon where it is safe."""

import signal
from typing import Any


class Mailbox:
  """Notes the signals that ask a process to stop, while it is entered.

  A signal that was ignored before stays so, as those of `nohup` do.

  >>> import os
  >>> with Mailbox() as mailbox:
  ...   os.kill(os.getpid(), signal.SIGTERM)
  ...   print(mailbox.received)
  [15]

  Attributes:
    received: SIGTERM (15) or SIGINT (2), in their order; a hang-up counts as
      SIGTERM, since nobody is there any more to see to the rest.
  """

  def __init__(self) -> None:
    self.received: list[int] = []
    self._before: dict[int, Any] = {}

  def __enter__(self) -> 'Mailbox':
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
    is_interrupt = number == signal.SIGINT
    self.received.append(int(signal.SIGINT if is_interrupt else signal.SIGTERM))
