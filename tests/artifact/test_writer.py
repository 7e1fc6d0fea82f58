"""Size, determinism, and writes that are interrupted."""

import os
import re
import signal
import stat
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def test_the_order_of_the_tensors_does_not_matter(resnet):
  names = list(resnet.tensors)
  backwards = {name: resnet.tensors[name] for name in reversed(names)}
  norms = dict(reversed(resnet.folded_norms.items()))
  args = dict(reversed(resnet.model_args.items()))
  other = artifact.Artifact(resnet.model, args, *resnet[2:5], backwards, norms)
  assert artifact.dumps(other) == artifact.dumps(resnet)


def test_bytes_are_the_same_in_another_process(small, tmp_path):
  artifact.write(tmp_path / 'net.hq', small)
  script = (
    'import sys; from hq_jax import artifact; '
    'artifact.write(sys.argv[2], artifact.read(sys.argv[1]))'
  )
  paths = [str(tmp_path / name) for name in ('net.hq', 'again.hq')]
  subprocess.run(
    [sys.executable, '-c', script, *paths],
    check=True,
    env=os.environ | {'PYTHONHASHSEED': '123'},
  )
  data = (tmp_path / 'net.hq').read_bytes()
  assert (tmp_path / 'again.hq').read_bytes() == data


def test_other_views_of_the_same_values_give_the_same_bytes():
  codes = np.array([[1, 0, -1], [0, 0, 1]], np.int8)
  scale = np.array([1, 2, 3], np.float16)
  views = [
    (codes, scale, scale),
    (np.asfortranarray(codes), scale.astype('>f2'), scale[::-1][::-1]),
    (jnp.asarray(codes), jnp.asarray(scale), jnp.asarray(scale)),
  ]
  written = {
    artifact.dumps(
      EMPTY._replace(
        tensors={
          'k': qtensors.TernaryTensor(a, b[None]),
          'q': qtensors.Int8Tensor(a, b),
          'x': c,
        }
      )
    )
    for a, b, c in views
  }
  assert len(written) == 1


@pytest.mark.parametrize('sparsity', [0.6, 0.85, 0.95])
def test_size_is_within_one_percent_of_the_entropy(make_net, sparsity):
  # The bar is 1% + 2 kB; this much smaller network must do better.
  given = make_net(sparsity)
  data = artifact.dumps(given)
  bits, side_bytes = 0.0, 0
  for tensor in given.tensors.values():
    if isinstance(tensor, qtensors.TernaryTensor):
      counts = ternary_coder.count(tensor.codes)
      bits += sum(counts) * ternary_coder.entropy_bits(counts)
      side_bytes += 0 if tensor.scale is None else tensor.scale.nbytes
    else:
      side_bytes += tensor.nbytes
  assert len(data) <= 1.01 * bits / 8 + side_bytes + 2000
  parts = artifact.sizes(data)
  assert parts['ternary_codes'] <= 1.0005 * bits / 8 + 4
  assert parts['float16'] + parts['scales'] < 0.85 * side_bytes
  assert parts['preamble'] + parts['header'] + parts['model_tables'] < 600


def test_file_then_name_are_forced_to_the_disk(small, tmp_path, monkeypatch):
  path = tmp_path / 'net.hq'
  fsync, calls = os.fsync, []

  def record(descriptor):
    folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    calls.append(('folder' if folder else 'file', path.exists()))
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', record)
  artifact.write(path, small)
  assert calls == [('file', False), ('folder', True)]


@pytest.mark.parametrize('step', ['fsync', 'replace'])
@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(small, tmp_path, monkeypatch, step, error):
  path = tmp_path / 'net.hq'
  path.write_bytes(b'old')

  def fail(*args):
    raise error('the disk')

  monkeypatch.setattr(os, step, fail)
  with pytest.raises(error, match='the disk'):
    artifact.write(path, small)
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['net.hq']


def _make_versions():
  """Two artifacts, of which the second has a third more bytes."""
  rng = np.random.default_rng(5)
  values = rng.normal(size=200_000).astype(np.float32)
  return [
    EMPTY._replace(model=model, tensors={'k': values[:size]})
    for model, size in (('old', 150_000), ('new', 200_000))
  ]


@pytest.mark.parametrize(
  'number', [2, pytest.param(40, marks=pytest.mark.slow)]
)
def test_killed_at_any_time_the_old_or_the_new_file_is_there(
  check_equal, tmp_path, number
):
  versions = _make_versions()
  path = tmp_path / 'net.hq'
  for version in versions:
    artifact.write(tmp_path / f'{version.model}.hq', version)
  artifact.write(path, versions[0])
  script = """
import itertools, pathlib, sys
from hq_jax.runtime import atomic_write

path, *sources = map(pathlib.Path, sys.argv[1:])
contents = [source.read_bytes() for source in sources]
for content in itertools.cycle(contents):
  atomic_write.write_bytes(path, content)
  print('written', flush=True)
"""
  sources = [str(tmp_path / f'{version.model}.hq') for version in versions]
  delays = np.random.default_rng(6).uniform(0, 0.05, number)
  for delay in delays.tolist():
    with subprocess.Popen(
      [sys.executable, '-c', script, str(path), *sources],
      stdout=subprocess.PIPE,
    ) as writer:
      assert writer.stdout.readline() == b'written\n'
      end = time.monotonic() + delay
      while time.monotonic() < end:
        _check_version(path, versions, check_equal)  # as it is replaced
      writer.kill()
    assert writer.returncode == -signal.SIGKILL
    _check_version(path, versions, check_equal)
  others = set(os.listdir(tmp_path)) - {'net.hq', 'old.hq', 'new.hq'}
  # What was killed could not remove them; no glob for *.hq finds them.
  assert all(re.fullmatch(r'\.hq-[0-9a-f]{16}\.tmp', name) for name in others)


def _check_version(path, versions, check_equal):
  found = artifact.read(path)
  check_equal(found, versions[found.model == 'new'])


def test_write_replaces_and_names_a_missing_folder(small, tmp_path):
  path = tmp_path / 'net.hq'
  path.write_bytes(b'old')
  artifact.write(path, small)
  assert artifact.read(path).model == 'net'
  assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
  with pytest.raises(FileNotFoundError, match='its folder does not exist'):
    artifact.write(tmp_path / 'none' / 'net.hq', small)


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask
