"""The files of onnxruntime-web, from npm or from a folder."""

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from hq_jax.artifact import byte_planes

# The release that the tests were run with.
VERSION = '1.30.0'
# The engine for CPUs, its loader within its JavaScript.
SCRIPT = 'ort.wasm.bundle.min.mjs'
BINARY = 'ort-wasm-simd-threaded.wasm'
# BINARY as the page reads it: a quarter of its size, by DEFLATE. Not .gz, which
# some web servers take for an encoding of their own.
DEFLATED = f'{BINARY}.deflate'

_PACKAGE = f'onnxruntime-web@{VERSION}'
_HINT = f'npm pack {_PACKAGE}, tar xzf onnxruntime-web-*.tgz, --runtime package'
_TIMEOUT_SECONDS = 300


def copy(folder: str, runtime: str | None = None) -> None:
  """Puts the files into a folder, which exists.

  Args:
    folder: where to.
    runtime: a folder that holds the package, or its `dist`; None for npm.
  """
  if runtime is not None:
    return _copy_from(runtime, folder)
  with tempfile.TemporaryDirectory() as temporary:
    _copy_from(download(temporary), folder)


def download(folder: str) -> str:
  """Has npm download the package into a folder; returns where it lies."""
  npm = shutil.which('npm')
  if npm is None:
    raise ValueError(
      'npm is not installed; install it, or get the engine on a machine that'
      f' has it: {_HINT}'
    )
  with tarfile.open(_pack(npm, folder)) as package:
    package.extractall(folder, filter='data')
  return os.path.join(folder, 'package')


def _copy_from(package: str, folder: str) -> None:
  dist = os.path.join(package, 'dist')
  source = dist if os.path.isdir(dist) else package
  for name in (SCRIPT, BINARY):
    path = os.path.join(source, name)
    if not os.path.isfile(path):
      raise ValueError(
        f'--runtime is {package}, which lacks {name}; wanted a folder made by:'
        f' {_HINT}'
      )
  shutil.copyfile(os.path.join(source, SCRIPT), os.path.join(folder, SCRIPT))
  binary = pathlib.Path(source, BINARY).read_bytes()
  pathlib.Path(folder, DEFLATED).write_bytes(byte_planes.deflate(binary))


def _pack(npm: str, folder: str) -> str:
  """Downloads the package and returns the path of its archive."""
  command = [npm, 'pack', '--silent', _PACKAGE]
  try:
    done = subprocess.run(
      command,
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=_TIMEOUT_SECONDS,
    )
  except subprocess.TimeoutExpired:
    raise ValueError(
      f'npm pack {_PACKAGE} took more than {_TIMEOUT_SECONDS} s'
    ) from None
  found = sorted(name for name in os.listdir(folder) if name.endswith('.tgz'))
  if done.returncode or not found:
    reason = ' '.join((done.stderr or done.stdout).split())
    raise ValueError(
      f'npm pack {_PACKAGE} failed ({reason:.200}); get the engine on a machine'
      f' with a network: {_HINT}'
    )
  return os.path.join(folder, found[0])
