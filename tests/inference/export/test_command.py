"""The command `hq-jax export`: what it writes, says and refuses."""

import os
import re

import numpy as np
import onnxruntime
from PIL import Image
import pytest

from hq_jax import __main__ as main
from hq_jax import artifact as artifact_lib
from hq_jax.inference import export
from tests.inference import drawn_files

_ARGUMENTS = {'widths': [4, 8], 'num_blocks': [1, 1]}
_PREPROCESSING = {
  'pixel_min': 0.0,
  'pixel_max': 255.0,
  'mean': [100.0],
  'std': [50.0],
}


@pytest.fixture(scope='module')
def artifact():
  made = drawn_files.make('small_resnet', _ARGUMENTS, (8, 8, 1))
  return made._replace(preprocessing=_PREPROCESSING)


@pytest.fixture
def model(tmp_path, artifact):
  path = tmp_path / 'model.hq'
  artifact_lib.write(path, artifact)
  return str(path)


@pytest.fixture
def pixels(rng):
  return rng.integers(0, 256, (20, 8, 8, 1), np.uint8)


def _run(content, images):
  session = onnxruntime.InferenceSession(
    content, providers=['CPUExecutionProvider']
  )
  (logits,) = session.run(None, {'images': images})
  return logits


def _assert_close(found, wanted, error=1e-4):
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=error * largest)


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    ('int8', 'kernels: 6 in int8; conv_stem in float32'),
    ('int2', 'kernels: 5 in int2; conv_stem in float32; head in int8'),
    ('float32', 'kernels: 7 in float32'),
  ],
)
def test_kernels_of_other_types_are_named(capsys, model, weights, message):
  arguments = ['export', model, '--to', 'onnx', '--weights', weights]
  assert main.main(arguments) == 0
  assert capsys.readouterr().out.splitlines()[1] == message


@pytest.mark.parametrize(
  ('to', 'ending'),
  [
    ('onnx', '.onnx'),
    ('torch', '.safetensors'),
    ('stablehlo', '.stablehlo'),
  ],
)
def test_a_file_and_its_size(capsys, model, to, ending):
  assert main.main(['export', model, '--to', to]) == 0
  written = model.removesuffix('.hq') + ending
  size, old = os.path.getsize(written), os.path.getsize(model)
  first, *more = capsys.readouterr().out.splitlines()
  assert first == (
    f'{written}: {size:,} bytes, {size / old:.2f} times the {old:,} of {model}'
  )
  assert bool(more) == (to == 'onnx')
  # What is there stays, unless it is said to go.
  assert main.main(['export', model, '--to', to]) == 2
  assert capsys.readouterr().err.endswith(
    f'output is {written}, which exists; --force replaces it\n'
  )
  with open(written, 'wb'):
    pass
  assert main.main(['export', model, '--to', to, '--force']) == 0
  assert os.path.getsize(written) == size


@pytest.mark.parametrize('weights', ['int8', 'int2', 'float32'])
def test_onnx_of_raw_pixels(artifact, pixels, weights):
  normalized = (pixels - np.float32(100)) / np.float32(50)
  wanted = drawn_files.apply_flax(artifact, normalized)
  content = export.to_onnx(artifact, weights=weights, raw_input=True)
  _assert_close(_run(content, pixels), wanted)
  content = export.to_onnx(artifact, weights=weights)
  _assert_close(_run(content, normalized), wanted)


def test_onnx_calibrated_on_a_folder(
  tmp_path, artifact, model, pixels, monkeypatch
):
  folder = tmp_path / 'images'
  folder.mkdir()
  for index, image in enumerate(pixels):
    Image.fromarray(image[..., 0]).save(folder / f'{index}.png')
  output = str(tmp_path / 'small.onnx')
  monkeypatch.chdir(folder)
  options = ['--activations', 'int8', '--calibrate', '.']
  argv = ['export', model, '--to', 'onnx', '--output', output, *options]
  assert main.main(argv) == 0
  normalized = (pixels - np.float32(100)) / np.float32(50)
  wanted = drawn_files.apply_flax(artifact, normalized)
  with open(output, 'rb') as file:
    found = _run(file.read(), normalized)
  assert np.abs(found - wanted).max() > 0
  _assert_close(found, wanted, error=0.1)


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (
      ['--to', 'gguf'],
      "to is 'gguf', wanted one of: onnx, torch, stablehlo, web",
    ),
    (['--to', 'torch', '--weights', 'int8'], "weights is 'int8', but --to t"),
    (['--to', 'stablehlo', '--raw_input'], 'raw_input is True, but --to st'),
    (['--to', 'onnx', '--weights', 'int1'], "weights is 'int1', wanted one of"),
    (['--to', 'onnx', '--activations', 'int8'], 'the file has no ranges'),
    (['--to', 'onnx', '--calibrate', '.'], 'calibrate is given, but activatio'),
    (['--to', 'onnx', '--output', '{model}', '--force'], 'another file than'),
    (['--to', 'onnx', '--output', 'nowhere/a'], 'its folder does not exist'),
  ],
)
def test_what_is_refused(capsys, tmp_path, model, argv, message):
  argv = [word.replace('{model}', model) for word in argv]
  assert main.main(['export', model, *argv]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line
  assert os.listdir(tmp_path) == ['model.hq']


@pytest.mark.parametrize('to', ['onnx', 'torch', 'stablehlo'])
def test_a_network_that_does_not_fit_is_refused(capsys, tmp_path, artifact, to):
  path = str(tmp_path / 'other.hq')
  arguments = _ARGUMENTS | {'widths': [4, 6]}
  artifact_lib.write(path, artifact._replace(model_args=arguments))
  assert main.main(['export', path, '--to', to]) == 2
  assert re.search(
    r'params/stage2_block1/conv1/kernel has shape \(3, 3, 4, 8\), wanted',
    capsys.readouterr().err,
  )
  assert os.listdir(tmp_path) == ['other.hq']
