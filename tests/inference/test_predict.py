"""The command `hq-jax predict`, and prediction without JAX."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from hq_jax import __main__ as commands
from hq_jax import artifact
from tests import runs
from tests.data import encoded

# What an environment without JAX lacks; `None` is what that looks like.
_ABSENT = (
  *('jax', 'jaxlib', 'flax', 'optax', 'chex', 'scipy', 'tabulate'),
  *('absl', 'ml_collections', 'tensorflow_datasets', 'orbax', 'onnx'),
)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A file whose classes are whether an image is bright, or dark."""
  kernel = np.array([[1, -1]], np.float32)
  tensors = {
    'params/dense1/kernel': np.ones((4, 1), np.float32),
    'params/norm1/scale': np.ones(1, np.float32),
    'params/norm1/bias': np.full(1, 2, np.float32),
    'params/head/kernel': kernel,
    'params/head/bias': np.array([-2, 2], np.float32),
  }
  found = artifact.Artifact(
    model='mlp',
    model_args={'widths': [1]},
    input_shape=(2, 2, 1),
    preprocessing={'mean': [127.5], 'std': [255.0]},
    class_names=('bright', 'dark\x1b[31m'),
    tensors=tensors,
    folded_norms={'norm1': 1e-5},
  )
  path = tmp_path_factory.mktemp('file') / 'model.hq'
  artifact.write(path, found)
  return str(path)


@pytest.fixture
def pictures(tmp_path):
  """A white image, a broken one, and a folder with a black one."""
  folder = tmp_path / 'pictures' / 'deep'
  folder.mkdir(parents=True)
  for path, value in (('white.png', 255), ('pictures/deep/black\x07.png', 0)):
    image = Image.new('L', (5, 3), value)
    (tmp_path / path).write_bytes(encoded.encode(image))
  (tmp_path / 'bad\x1b.png').write_bytes(b'<html>')
  return tmp_path


def _run(capsys, *arguments):
  status = commands.main(['predict', *map(str, arguments)])
  return status, *capsys.readouterr()


# Logits 2 and -2, their softmax.
_SURE = 1 / (1 + np.exp(-4))


def test_each_image_has_a_block(capsys, model, pictures):
  white, folder = pictures / 'white.png', pictures / 'pictures'
  (folder / 'a.HEIC').touch()
  shutil.copy(white, folder / 'a copy')
  found = _run(capsys, model, '--top=1', white, folder, '--engine=jax')
  assert found == (
    0,
    f'{white}\n   98.20%  bright\n{folder}/a copy\n   98.20%  bright\n'
    f'{folder}/deep/black\\x07.png\n'
    '   98.20%  dark\\x1b[31m\n',
    f'hq_jax: {folder}: no images, ignored: 1 .heic; HEIC needs pillow-heif:'
    ' pip install pillow-heif\n',
  )


def test_a_bad_image_is_named_and_the_others_are_answered(
  capsys, model, pictures
):
  names = 'white.png', 'bad\x1b.png', 'none.png'
  paths = [str(pictures / name) for name in names]
  status, out, err = _run(capsys, model, '--json', '--engine=jax', *paths)
  assert status == 2
  good, bad, missing = map(json.loads, out.splitlines())
  assert good['image'] == paths[0]
  bright, dark = good['predictions']
  assert (bright['class'], dark['class']) == ('bright', 'dark\x1b[31m')
  np.testing.assert_allclose(bright['probability'], _SURE, rtol=1e-5)
  np.testing.assert_allclose(dark['probability'], 1 - _SURE, rtol=1e-5)
  assert bad['image'] == paths[1] and 'image is 6 bytes' in bad['error']
  assert missing['error'] == f'{paths[2]}: no such file'
  first, second = err.splitlines()
  assert first.startswith(f'hq_jax: {pictures}/bad\\x1b.png: image is 6 bytes')
  assert second == f'hq_jax: {paths[2]}: no such file'


def test_a_warning_is_a_line_with_the_name(capsys, model, tmp_path):
  path = tmp_path / 'a.jpg'
  exif = encoded.make_exif(6, entries=9)  # It has fewer.
  path.write_bytes(encoded.encode(Image.new('L', (9, 9)), 'JPEG', exif=exif))
  status, out, err = _run(capsys, model, '--top=1', '--engine=jax', path)
  assert (status, out.splitlines()[0]) == (0, str(path))
  assert err.startswith(f'hq_jax: {path}: Corrupt EXIF data')
  assert err.count('\n') == 1


def test_what_is_wrong_with_the_command_is_one_line(capsys, model, tmp_path):
  for arguments, message in (
    ([f'{model}x', 'a.png'], f'{model}x: no such file'),
    ([model, 'a.png', '--top=0'], 'top is 0, wanted at least 1'),
    ([model, 'a.png', '--engine=gpu'], "engine is 'gpu', wanted one of"),
    ([model, tmp_path, '--engine=jax'], f'{tmp_path}: no image in it, wanted'),
  ):
    status, out, err = _run(capsys, *arguments)
    assert (status, out, err.count('\n')) == (2, '', 1)
    assert err.startswith(f'hq_jax: {message}')


@pytest.mark.parametrize(
  ('kilobytes', 'options', 'status'),
  [
    (800_000, [], 0),  # It takes onnxruntime.
    (800_000, ['--engine=jax'], 2),
    (180_000, [], 2),
  ],
)
def test_a_small_address_space(model, pictures, kilobytes, options, status):
  words = [sys.executable, '-m', 'hq_jax', 'predict', model, *options]
  words.append(str(pictures / 'white.png'))
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  with runs.start(runs.limited(kilobytes, words), env) as running:
    done = running.finish()
  assert done.returncode == status
  if status:
    assert f'is limited to {1024 * kilobytes:,} bytes' in runs.only_line(done)
  assert bool(done.stdout) == (not status)


def _without_jax(source, *arguments):
  lines = 'import sys', f'sys.modules.update(dict.fromkeys({_ABSENT!r}))'
  return subprocess.run(
    [sys.executable, '-c', '\n'.join([*lines, source]), *arguments],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
  )


def test_without_jax(model, pictures):
  source = """
import hq_jax
from hq_jax import __main__ as commands
model = hq_jax.load(sys.argv[1])
print(model.engine, model.predict(sys.argv[2]).classes[0])
sys.exit(commands.main(['predict', '--json', *sys.argv[1:]]))
"""
  done = _without_jax(source, model, str(pictures / 'white.png'))
  assert (done.returncode, done.stderr) == (0, '')
  first, second = done.stdout.splitlines()
  assert first == 'onnxruntime bright'
  assert json.loads(second)['predictions'][0]['class'] == 'bright'


def test_without_an_engine(model):
  source = """
sys.modules['onnxruntime'] = None
import hq_jax
try:
  hq_jax.load(sys.argv[1])
except ImportError as error:
  print(error)
from hq_jax import __main__ as commands
sys.exit(commands.main(['predict', sys.argv[1], 'a.png']))
"""
  done = _without_jax(source, model)
  assert done.returncode == 2
  assert done.stdout == (
    'a classifier needs onnxruntime or jax, and neither is installed: pip'
    ' install onnxruntime\n'
  )
  assert runs.only_line(done) == (
    'hq_jax: hq-jax predict needs onnxruntime, which is not installed: pip'
    " install 'hq_jax[predict]'"
  )


@pytest.mark.slow
def test_an_environment_without_jax(model, pictures, tmp_path):
  """What the page says: two lines, less than 200 MB, no JAX."""
  environment = tmp_path / 'environment'
  binaries = environment / 'bin'
  pip = [sys.executable, '-m', 'pip', '--python', str(binaries / 'python')]
  install = [*pip, 'install', '--quiet']
  packages = 'numpy', 'constriction', 'pillow', 'onnxruntime'
  # Of a copy: building leaves files beside the sources.
  source = tmp_path / 'source'
  unwanted = shutil.ignore_patterns('.*', 'runs', 'build', '*.egg-info')
  shutil.copytree(runs.ROOT, source, ignore=unwanted)
  for command in (
    [sys.executable, '-m', 'venv', '--without-pip', str(environment)],
    [*install, *packages],
    [*install, '--no-deps', str(source)],
  ):
    done = subprocess.run(command, capture_output=True, text=True)
    if 'Failed to establish a new connection' in done.stderr:
      pytest.skip('pip has no network')
    assert not done.returncode, done.stderr
  white = str(pictures / 'white.png')
  run = lambda *words: subprocess.run(
    words, cwd=tmp_path, capture_output=True, text=True
  )
  done = run(str(binaries / 'hq-jax'), 'predict', model, white, '--top=1')
  assert (done.stdout, done.stderr) == (f'{white}\n   98.20%  bright\n', '')
  code = """
import importlib.util, sys, hq_jax
assert hq_jax.load(sys.argv[1]).predict(sys.argv[2]).classes[0] == 'bright'
print(importlib.util.find_spec('jax'))
"""
  done = run(str(binaries / 'python'), '-c', code, model, white)
  assert (done.stdout, done.stderr) == ('None\n', '')
  size = sum(
    os.lstat(os.path.join(folder, name)).st_size
    for folder, _, names in os.walk(environment)
    for name in names
  )
  assert size < 200e6, size
