"""The folder for a web server, and its network as the browser builds it."""

import base64
import json
import re
import shlex

import numpy as np
import onnx
import onnxruntime
import pytest

from hq_jax import __main__ as main
from hq_jax import artifact
from hq_jax.inference import onnx_engine
from hq_jax.inference.web import export
from hq_jax.inference.web import runtime
from tests.inference import drawn_files
from tests.inference import networks
from tests.inference.web import node


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  """A folder that looks like the package of npm."""
  folder = tmp_path_factory.mktemp('package')
  (folder / 'dist').mkdir()
  for name in (runtime.SCRIPT, runtime.BINARY):
    (folder / 'dist' / name).write_text(f'the bytes of {name}')
  return str(folder)


@pytest.fixture
def file(tmp_path):
  given = _make('mlp', {'widths': [5]}, (4, 3, 1))
  artifact.write(tmp_path / 'my net.hq', given)
  return tmp_path / 'my net.hq'


def _make(model, arguments, shape):
  channels = shape[-1]
  statistics = {'mean': [100.0] * channels, 'std': [50.0] * channels}
  made = drawn_files.make(model, arguments, shape)
  return made._replace(preprocessing=statistics)


# The others are built of the same blocks.
_NETWORKS = [
  pytest.param(*network, marks=pytest.mark.slow)
  if network[0] in ('resnet18', 'resnet50')
  else network
  for network in networks.NETWORKS
  if network[0] not in ('resnet34', 'resnet56', 'resnet101')
]


@node.needed
@pytest.mark.parametrize(('model', 'arguments', 'shape'), _NETWORKS)
def test_the_weights_fit_the_graph(model, arguments, shape, tmp_path, engine):
  shape = (*shape[:2], 3)
  given = _make(model, arguments, shape)
  artifact.write(tmp_path / 'a.hq', given)
  export.export(tmp_path / 'a.hq', tmp_path / 'web', runtime=engine)
  description = json.loads((tmp_path / 'web' / 'model.json').read_text())
  data = (tmp_path / 'web' / 'model.hq').read_bytes()
  request = {
    'file': base64.b64encode(data).decode(),
    'layers': description['weights'],
  }
  (line,) = node.run('weights.mjs', [json.dumps(request)])
  (tmp_path / 'web' / 'weights').write_bytes(base64.b64decode(line))
  path = str(tmp_path / 'web' / 'network.onnx')
  onnx.checker.check_model(path, full_check=True)
  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  (logits,) = session.run(None, {'images': images})
  expected = onnx_engine.OnnxEngine(given).logits(images)
  error = np.abs(logits - expected).max() / np.abs(expected).max()
  assert error < 1e-5


def test_the_folder_is_whole(file, tmp_path, engine):
  sizes = export.export(file, tmp_path / 'web', runtime=engine)
  found = {
    path.relative_to(tmp_path / 'web').as_posix()
    for path in (tmp_path / 'web').rglob('*')
  }
  page = {
    path.relative_to(export.PAGE).as_posix() for path in export.PAGE.rglob('*')
  }
  added = {'model.hq', 'model.json', 'network.onnx', 'runtime'}
  engine = {f'runtime/{runtime.SCRIPT}', f'runtime/{runtime.DEFLATED}'}
  assert found == page | added | engine
  assert (tmp_path / 'web' / 'model.hq').read_bytes() == file.read_bytes()
  assert sizes['model.hq'] == file.stat().st_size
  assert (tmp_path / 'web' / 'index.html').stat().st_mode & 0o044 == 0o044
  description = json.loads((tmp_path / 'web' / 'model.json').read_text())
  assert description['name'] == 'my net' and description['downloads'] == sizes
  assert str(tmp_path) not in (tmp_path / 'web' / 'model.json').read_text()


def test_the_command(file, engine, capsys):
  command = ['export', str(file), '--to', 'web', '--runtime', engine]
  assert main.main(command) == 0
  folder = str(file).replace('.hq', '.web')
  size = len(file.read_bytes())
  said = capsys.readouterr().out
  assert re.search(rf'^model.hq +{size:,} bytes$', said, re.MULTILINE)
  assert f'python -m http.server --directory {shlex.quote(folder)}' in said
  for flags, message in (
    ([], f'output is {folder}, which exists, wanted a folder that does not'),
    (['--force'], 'force is given, but --to web replaces no folder'),
    (
      ['--weights=int8'],
      "weights is 'int8', but --to web takes no such option",
    ),
  ):
    assert main.main([*command, *flags]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_left_of_a_failure(file, tmp_path, engine, monkeypatch):
  before = sorted(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r'lacks ort.wasm.bundle.min.mjs'):
    export.export(file, tmp_path / 'web', runtime=str(tmp_path))
  monkeypatch.setenv('PATH', '')
  with pytest.raises(ValueError, match='npm is not installed; install it, or'):
    export.export(file, tmp_path / 'web')
  assert sorted(tmp_path.iterdir()) == before


def test_what_takes_no_pictures_is_refused(tmp_path, engine):
  given = _make('mlp', {'widths': [5]}, (4, 3, 2))
  artifact.write(tmp_path / 'a.hq', given)
  with pytest.raises(ValueError, match=r'input_shape is \(4, 3, 2\), wanted 1'):
    export.export(tmp_path / 'a.hq', tmp_path / 'web', runtime=engine)
