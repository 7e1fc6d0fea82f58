"""Real processes; small programs stand for the training program."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from hq_jax.launch import exit_status
from hq_jax.launch import local
from hq_jax.launch import supervisor
from tests import runs

# Notes its process id, and does as its last argument says. The first argument
# is a folder of notes.
_PROGRAM = """
import os, pathlib, signal, sys, time
notes, name, deed = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
start = len(list(notes.glob(name + '.pid.*')))
def stop(number, frame):
  with open(notes / (name + '.signals'), 'a') as file:
    file.write(str(number) + ' ')
  if deed != 'deaf':
    time.sleep(0.2)  # It saves.
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
(notes / (name + '.pid.' + str(start))).write_text(str(os.getpid()))
if deed.startswith('exit'):
  sys.exit(int(deed[4:]))
if deed == 'die' or (deed == 'die_once' and start == 0):
  os.kill(os.getpid(), signal.SIGKILL)
if deed != 'die_once':
  time.sleep(60)
"""


def _command(notes, name, deed):
  # Each needs a tenth of the time without the packages of an environment.
  words = (sys.executable, '-I', '-S', '-c', _PROGRAM)
  return (*words, str(notes), name, deed)


def _supervise(notes, *deeds, **policy):
  """The status, and the number of starts."""
  starts = []

  def make():
    starts.append(0)
    return [_command(notes, str(i), deed) for i, deed in enumerate(deeds)]

  policy = {'grace_seconds': 0.3, **policy}
  status = supervisor.supervise(make, supervisor.Policy(**policy))
  assert not any(map(_is_alive, _pids(notes)))
  return status, len(starts)


def _is_alive(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
  except FileNotFoundError:
    return False


def _pids(notes):
  texts = [path.read_text() for path in notes.glob('*.pid.*')]
  return [int(text) for text in texts if text]


def _wait_until(condition):
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_all_that_finish_are_started_once(tmp_path, capfd):
  assert _supervise(tmp_path, 'exit0', 'exit0') == (0, 1)
  assert capfd.readouterr() == ('', '')


def test_a_death_kills_the_others_and_starts_all_again(tmp_path, capfd):
  assert _supervise(tmp_path, 'sleep', 'die', max_restarts=1) == (137, 2)
  assert len(_pids(tmp_path)) == 4
  # The healthy one was not asked to save: it could not.
  assert not list(tmp_path.glob('*.signals'))
  assert capfd.readouterr().err.splitlines() == [
    'hq_jax: process 1 was killed by signal 9',
    'hq_jax: starting again: restart 1 of 1',
    'hq_jax: process 1 was killed by signal 9',
    'hq_jax: that was restart 1 of 1: giving up',
  ]


@pytest.mark.skipif(not hasattr(os, 'waitid'), reason='nothing tells it here')
def test_a_frozen_process_counts_as_a_death(tmp_path, capfd):
  def freeze():
    _wait_until(lambda: len(_pids(tmp_path)) == 2)
    (path,) = tmp_path.glob('1.pid.0')
    pid = int(path.read_text())
    # It may be frozen for a while.
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)

  thread = threading.Thread(target=freeze)
  thread.start()
  begin = time.monotonic()
  policy = {'max_restarts': 0, 'frozen_seconds': 1.0}
  assert _supervise(tmp_path, 'sleep', 'sleep', **policy) == (137, 1)
  assert 1.5 <= time.monotonic() - begin < 20
  thread.join()
  assert capfd.readouterr().err.splitlines() == [
    'hq_jax: process 1 has been frozen for 1 seconds, killing it',
    'hq_jax: process 1 was killed by signal 9',
    'hq_jax: that was restart 0 of 0: giving up',
  ]


_slow = [pytest.mark.slow]


@pytest.mark.parametrize(
  ('deeds', 'max_restarts', 'status', 'starts'),
  [
    (('sleep', 'exit2'), 3, 2, 1),
    (('sleep', 'exit143'), 3, 143, 1),
    pytest.param(('sleep', 'exit3'), 3, 3, 1, marks=_slow),
    pytest.param(('sleep', 'exit130'), 3, 130, 1, marks=_slow),
    pytest.param(('exit0', 'die_once'), 3, 0, 2, marks=_slow),
    # Who is killed late has not finished.
    pytest.param(('sleep', 'exit0'), 0, 137, 1, marks=_slow),
  ],
)
def test_a_run_ends_or_starts_again(
  tmp_path, deeds, max_restarts, status, starts
):
  found = _supervise(tmp_path, *deeds, max_restarts=max_restarts)
  assert found == (status, starts)


def _launch(notes, *deeds, grace_seconds=20):
  """A launcher in a process of its own, when its processes have begun."""
  commands = [_command(notes, str(i), deed) for i, deed in enumerate(deeds)]
  source = (
    'import sys\nfrom hq_jax.launch import supervisor\n'
    f'policy = supervisor.Policy(3, {grace_seconds})\n'
    f'sys.exit(supervisor.supervise(lambda: {commands!r}, policy))\n'
  )
  launcher = subprocess.Popen(
    [sys.executable, '-S', '-c', source], cwd=runs.ROOT, stderr=subprocess.PIPE
  )
  _wait_until(lambda: len(_pids(notes)) == len(deeds))
  return launcher


@pytest.mark.parametrize(
  ('sent', 'got'),
  [('SIGTERM', 15), ('SIGINT', 2), pytest.param('SIGHUP', 15, marks=_slow)],
)
def test_a_signal_reaches_every_process_once(tmp_path, sent, got):
  launcher = _launch(tmp_path, 'sleep', 'sleep')
  launcher.send_signal(getattr(signal, sent))
  launcher.communicate(timeout=20)
  assert launcher.returncode == 128 + got
  notes = [path.read_text() for path in tmp_path.glob('*.signals')]
  assert notes == [f'{got} '] * 2
  assert len(_pids(tmp_path)) == 2


@pytest.mark.parametrize('grace_seconds', [20, pytest.param(0.3, marks=_slow)])
def test_who_does_not_leave_in_time_is_killed(tmp_path, grace_seconds):
  launcher = _launch(tmp_path, 'deaf', grace_seconds=grace_seconds)
  launcher.terminate()
  if grace_seconds == 20:  # A second signal: at once.
    _wait_until(lambda: (tmp_path / '0.signals').exists())
    assert launcher.poll() is None
    launcher.terminate()
  launcher.communicate(timeout=15)
  assert launcher.returncode == 143
  assert not any(map(_is_alive, _pids(tmp_path)))


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prctl')
def test_a_launcher_that_is_killed_leaves_nobody_behind(tmp_path):
  launcher = _launch(tmp_path, 'deaf', 'sleep')
  pids = _pids(tmp_path)
  assert all(map(_is_alive, pids))
  launcher.kill()
  try:
    _wait_until(lambda: not any(map(_is_alive, pids)))
  finally:
    for pid in filter(_is_alive, pids):
      os.kill(pid, signal.SIGKILL)
    launcher.communicate()


def test_a_program_that_is_not_there_is_no_death(capfd):
  commands = [('no-such-program', 'x')]
  status = supervisor.supervise(lambda: commands, supervisor.Policy())
  assert status == 2
  assert capfd.readouterr().err.splitlines() == [
    'hq_jax: no-such-program: No such file or directory',
    'hq_jax: process 0 left with status 2',
  ]


def test_each_start_has_a_port_of_its_own():
  ports = {local.make_commands('python3', 1, [])[0][-3] for _ in range(4)}
  assert len(ports) > 1


@pytest.mark.parametrize(
  ('statuses', 'expected'),
  [
    ((0, 0), (0, True, 0)),
    ((1, 0), (1, False, 0)),
    ((0, 1), (1, False, 1)),
    ((1, -6, 2), (2, True, 2)),  # Partners of one that refused.
    ((-6, 3, 0), (3, True, 1)),
    ((-9, 1, 2), (137, False, 0)),  # Partners of one that was killed.
    ((1, -9, 1), (137, False, 1)),
    ((143, -11), (143, True, 0)),  # It crashed on its way out.
    ((-15, 1), (143, True, 0)),  # Asked to stop before it could listen.
    ((134, 137), (134, False, 0)),
  ],
)
def test_one_exit_explains_the_others(statuses, expected):
  exits = [exit_status.ProcessExit(i, x) for i, x in enumerate(statuses)]
  status, is_final, process = expected
  assert exit_status.decide(exits) == (status, is_final, exits[process])


def test_signals_are_as_before_when_it_has_ended():
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  supervisor.supervise(lambda: [('true',)], supervisor.Policy())
  assert before == [
    signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)
  ]
