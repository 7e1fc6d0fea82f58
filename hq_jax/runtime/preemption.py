"""SIGTERM and SIGINT: the step is finished and saved, in all processes.

Signals are read by a thread: the main thread may be within a compilation that
takes minutes, and a second signal has to end the process at once.
"""

import collections
from collections.abc import Iterator
import contextlib
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np

from hq_jax.runtime import distributed
from hq_jax.runtime import sharding

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NUM_BEHIND = 2  # Steps that may be under way while older flags are looked at.


class Interrupted(Exception):
  """A signal has come; nothing was saved yet."""

  def __init__(self, signal_number: int):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


def interrupt(signal_number: int) -> None:
  """Raises `Interrupted` unless the number is 0."""
  if signal_number:
    raise Interrupted(signal_number)


class Stopped(Exception):
  """The run was stopped by a signal, and its state was saved."""

  def __init__(self, signal_number: int, message: str):
    super().__init__(message)
    self.signal_number = signal_number


class Watch:
  """Whether a signal has come, in any process; alone it never stops a run."""

  def __init__(self, mesh: jax.sharding.Mesh):
    self._mesh = mesh
    self._received = 0
    self._waits = False
    self._pending: collections.deque[jax.Array] = collections.deque()
    self._greatest = jax.jit(jnp.max)

  @contextlib.contextmanager
  def finishing_steps(self) -> Iterator[None]:
    """A context in which a signal waits for `poll` and does not end the run."""
    self._waits = True
    try:
      yield
    finally:
      self._waits = False

  def poll(self) -> int:
    """The signal to stop for, or 0; all processes call it once a step.

    The answer is the same in all of them, and a few steps old, so that no
    process waits for another.
    """
    if distributed.is_single_process():
      return self._received
    num_local = len(self._mesh.local_devices)
    flags = {'flag': np.full(num_local, self._received, np.int32)}
    flags = sharding.to_global(flags, self._mesh)
    self._pending.append(self._greatest(flags['flag']))
    if len(self._pending) <= _NUM_BEHIND:
      return 0
    return int(self._pending.popleft())

  def poll_now(self) -> int:
    """The same without a delay: waits for all processes."""
    return max(distributed.gather(self._received))

  def receive(self, number: int) -> bool:
    """Takes a signal; False if it should end the process at once."""
    if not self._waits or self._received:
      return False
    self._received = number
    return True


class Listener:
  """A thread that reads signals and tells `watch`, if there is one."""

  def __init__(self) -> None:
    self.watch: Watch | None = None
    self._readable, self._writable = os.pipe()
    os.set_blocking(self._writable, False)
    self.take_signals()
    threading.Thread(target=self._hear, daemon=True).start()

  def take_signals(self) -> None:
    """Installs the handlers, in the main thread; what is ignored stays so."""
    signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
    for number in _SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, self._handle)

  def _handle(self, number: int, frame: object) -> None:
    del frame
    # Python has written the number already, wherever it was told to: an event
    # loop of a library may have changed that.
    told = signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
    if told != self._writable:
      os.write(self._writable, bytes([number]))

  def _hear(self) -> None:
    while data := os.read(self._readable, 1):
      number = data[0]
      if number not in _SIGNALS:
        continue
      name = signal.Signals(number).name
      if self.watch is not None and self.watch.receive(number):
        _say(f'{name}: finishing the step and saving; once more quits at once')
        continue
      # An exception could get lost in a library's callback, and an interpreter
      # that takes itself apart beneath steps that are under way crashes. What
      # is on the disk is whole.
      _say(f'{name}: interrupted; the same command goes on')
      os._exit(128 + number)


def listen() -> Listener:
  """Begins to listen to signals; to be called in the main thread."""
  return Listener()


def _say(message: str) -> None:
  os.write(2, f'hq_jax: {message}\n'.encode())
