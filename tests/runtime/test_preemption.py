"""Signals: a step that is finished, a second one that is not waited for."""

import signal
import subprocess
import sys

import pytest

from hq_jax.runtime import preemption
from hq_jax.runtime import sharding


@pytest.fixture
def watch():
  return preemption.Watch(sharding.make_mesh())


def test_a_watch_that_hears_nothing_never_stops(watch):
  with watch.finishing_steps():
    assert watch.poll() == watch.poll_now() == 0
  preemption.interrupt(0)


def test_a_signal_waits_for_the_end_of_a_step(watch):
  with watch.finishing_steps():
    assert watch.receive(signal.SIGTERM)
    assert watch.poll() == watch.poll_now() == signal.SIGTERM
    with pytest.raises(preemption.Interrupted, match=r'^SIGTERM$') as caught:
      preemption.interrupt(watch.poll())
    assert caught.value.signal_number == signal.SIGTERM
    # The second is not waited for, and changes nothing.
    assert not watch.receive(signal.SIGINT)
    assert watch.poll() == signal.SIGTERM


def test_outside_of_steps_a_signal_ends_the_process(watch):
  assert not watch.receive(signal.SIGTERM)
  assert watch.poll() == 0
  with watch.finishing_steps():
    pass
  assert not watch.receive(signal.SIGTERM)
  with pytest.raises(KeyError), watch.finishing_steps():
    raise KeyError
  assert not watch.receive(signal.SIGTERM)
  with watch.finishing_steps():
    assert watch.receive(signal.SIGINT)
  assert watch.poll() == signal.SIGINT


# A lock that is taken twice is one call that no signal ends and during which no
# handler of Python runs, as in a compilation.
_LISTENS = """
import ctypes, signal, sys, time

mode = sys.argv[1]
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)

def wait_for_ever():
  libc.pthread_mutex_lock(lock)
  libc.pthread_mutex_lock(lock)

signal.signal(
  signal.SIGINT,
  signal.SIG_IGN if mode == 'ignores' else signal.default_int_handler,
)
from hq_jax.runtime import preemption
from hq_jax.runtime import sharding

listener = preemption.listen()
if mode == 'taken':
  # As `jax.distributed` does.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  listener.take_signals()
if mode == 'moved':
  # As an event loop of asyncio does, and takes back when it is done.
  signal.set_wakeup_fd(-1)
print('listens', flush=True)
if mode == 'early':
  wait_for_ever()
watch = preemption.Watch(sharding.make_mesh())
listener.watch = watch
if mode == 'between':
  print('steps', flush=True)
  wait_for_ever()
with watch.finishing_steps():
  print('steps', flush=True)
  if mode == 'long':
    wait_for_ever()
  while not watch.poll():
    time.sleep(0.01)
print(f'finished {watch.poll()}', flush=True)
"""


@pytest.fixture
def start():
  """Starts a process that listens; waits until it does."""
  started = []

  def begin(mode, last='steps'):
    process = subprocess.Popen(
      [sys.executable, '-c', _LISTENS, mode],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    while (line := process.stdout.readline().strip()) != last:
      assert line == 'listens', process.stderr.read()
    return process

  yield begin
  for process in started:
    process.kill()
    process.communicate()


_FINISHING = 'finishing the step and saving; once more quits at once'
_INTERRUPTED = 'interrupted; the same command goes on'


@pytest.mark.parametrize(
  'mode',
  [
    'steps',
    # A library has taken the signals, or where they are written to.
    pytest.param('taken', marks=pytest.mark.slow),
    pytest.param('moved', marks=pytest.mark.slow),
  ],
)
def test_a_signal_is_heard_between_steps(start, mode):
  _finish_by_sigterm(start(mode))


def _finish_by_sigterm(process):
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stdout) == (0, 'finished 15\n')
  assert stderr == f'hq_jax: SIGTERM: {_FINISHING}\n'


def test_two_signals_end_a_call_that_takes_long(start):
  process = start('long')
  process.send_signal(signal.SIGTERM)
  line = process.stderr.readline()
  assert line == f'hq_jax: SIGTERM: {_FINISHING}\n'
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  stdout, stderr = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGINT
  assert (stdout, stderr) == ('', f'hq_jax: SIGINT: {_INTERRUPTED}\n')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
  ('mode', 'last'), [('early', 'listens'), ('between', 'steps')]
)
def test_one_signal_ends_what_has_no_steps(start, mode, last, number):
  process = start(mode, last)
  process.send_signal(number)
  stdout, stderr = process.communicate(timeout=60)
  assert process.returncode == 128 + number
  assert stdout == ''
  assert stderr == f'hq_jax: {signal.Signals(number).name}: {_INTERRUPTED}\n'


@pytest.mark.slow
def test_what_was_ignored_stays_ignored(start):
  process = start('ignores')
  process.send_signal(signal.SIGINT)
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(timeout=0.5)
  _finish_by_sigterm(process)
