"""Node, which runs the page's modules without a browser."""

import pathlib
import shutil
import subprocess

import pytest

needed = pytest.mark.skipif(
  shutil.which('node') is None, reason='node is not installed'
)


def run(script, lines):
  """The lines that a script beside this file answers to these."""
  path = pathlib.Path(__file__).with_name(script)
  command = ['node', str(path)]
  text = '\n'.join(lines).encode()
  done = subprocess.run(command, input=text, capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr.decode()
  found = done.stdout.decode().splitlines()
  assert len(found) == len(lines)
  return found
