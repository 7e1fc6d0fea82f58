"""The process of a server, from its first line to its end."""

import json
import os
import signal
import socket
import subprocess
import sys

from benchmarks import serving
from hq_jax import __main__ as commands


def _refuse(capsys, *arguments):
  assert commands.main(['serve', *arguments]) == 2
  error = capsys.readouterr().err
  assert error.startswith('hq_jax: ')
  assert error.count('\n') == 1
  return error


def test_it_holds_clients_refuses_nonsense_and_ends_in_peace(file, capsys):
  found = serving.main(
    [
      f'--file={file}',
      '--clients=30',
      '--seconds=1',
      '--malformed=200',
    ]
  )
  assert found['requests'] > 30
  assert (found['errors'], found['first_errors']) == (0, [])
  assert found['first_without_4xx'] == []
  assert found['good_unanswered'] == 0
  assert found['exit_status'] == 0
  assert found['in_flight_answered'] == 20
  assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


def test_what_it_is_told_is_checked(file, tmp_path, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    error = _refuse(capsys, file, f'--port={port}')
    assert f"host is '127.0.0.1' and port is {port}" in error
  assert 'max_batch_size is 0' in _refuse(capsys, file, '--max_batch_size=0')
  assert "host is '256.0.0.1'" in _refuse(capsys, file, '--host=256.0.0.1')
  assert "name is 'a/b'" in _refuse(capsys, file, '--name=a/b')
  (tmp_path / 'no.hq').write_bytes(b'nothing')
  for name in ('no.hq', 'absent.hq'):
    assert name in _refuse(capsys, str(tmp_path / name), '--port=0')
  assert 'engine' in _refuse(capsys, file, '--port=0', '--engine=abacus')


def test_a_missing_package_is_named(file):
  source = f"""
import sys
sys.modules['starlette'] = None  # As if it were not installed.
from hq_jax import __main__
sys.exit(__main__.main(['serve', {file!r}]))
"""
  done = subprocess.run(
    [sys.executable, '-c', source], capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr.endswith("pip install 'hq_jax[serve]'\n")


def test_it_needs_no_jax_and_ends_by_ctrl_c(file):
  source = f"""
import sys
for name in ('jax', 'flax', 'scipy', 'tabulate', 'absl'):
  sys.modules[name] = None  # As if it were not installed.
from hq_jax import __main__
sys.exit(__main__.main(['serve', {file!r}, '--port=0']))
"""
  with subprocess.Popen(
    [sys.executable, '-c', source], stdout=subprocess.PIPE, text=True
  ) as process:
    line = process.stdout.readline()
    assert line.startswith('http://127.0.0.1:')
    assert f'{os.path.getsize(file):,} bytes, 10 classes' in line
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
