"""Against PyTorch and torchvision themselves, where they are installed."""

import collections
import importlib.util

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from tests.models.pretrained import states
from tests.models.pretrained import torchvision_models

# Not `importorskip`: a torchvision whose operators do not load will do as well.
pytestmark = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('torch', 'torchvision'))),
  reason='PyTorch or torchvision is not installed',
)


@pytest.mark.parametrize(
  'architecture',
  [n for n, x in pretrained.ARCHITECTURES.items() if not x.is_transformer],
)
def test_the_names_and_shapes(architecture):
  model = torchvision_models.build(architecture)
  naming = architectures.get(architecture).namings[0]
  shapes = architectures.get_shapes(architecture, states.NUM_CLASSES)
  got = checking.name_shapes(trees.flatten(shapes), naming)
  wanted = torchvision_models.get_shapes(model)
  assert got == {n: x for n, x in wanted.items() if 'num_batches' not in n}


@pytest.mark.parametrize(
  'architecture',
  [
    'resnet18',
    'mobilenet_v2',
    pytest.param('resnet50', marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_logits_through_a_file(tmp_path, recorded, architecture, suffix):
  import torch

  model = torchvision_models.build(architecture)
  shapes = torchvision_models.get_shapes(model)
  assert shapes == {
    name: tuple(x) for name, x in recorded[architecture]['shapes'].items()
  }
  state = states.draw_state(shapes)
  wanted = torchvision_models.compute_logits(model, state)
  path = tmp_path / f'weights{suffix}'
  if suffix == '.pth':
    torch.save(model.state_dict(), path)
  else:
    safetensors_numpy.save_file(state, path)
  ours = architectures.get(architecture).build(states.NUM_CLASSES)
  variables = pretrained.to_flax(
    pretrained.read(path),
    architectures.get_shapes(architecture, states.NUM_CLASSES),
    architecture=architecture,
  )
  got = jax.jit(ours.apply)(variables, states.draw_images())
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * scale)
  # What was recorded is what this torchvision computes too.
  np.testing.assert_allclose(
    recorded[architecture]['logits'], wanted, rtol=0, atol=1e-5 * scale
  )
  # And back, into a network that had other weights.
  back = pretrained.to_torchvision(variables, architecture=architecture)
  again = torchvision_models.compute_logits(
    torchvision_models.build(architecture), back
  )
  np.testing.assert_array_equal(again, wanted)


@pytest.fixture
def save(tmp_path):
  """Returns a function: what `torch.save` writes to the path of the file."""

  def save(content, name='weights.pth'):
    import torch

    torch.save(content, tmp_path / name)
    return tmp_path / name

  return save


@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model'])
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin'])
def test_what_training_scripts_write(save, wrapper, suffix):
  import torch

  state = collections.OrderedDict(
    {
      'module.fc.weight': torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T,
      'module.fc.bias': torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
      'module.a': torch.nn.Parameter(torch.ones(1, dtype=torch.float16)),
      'module.bn.num_batches_tracked': torch.tensor(3),
    }
  )
  content = state if wrapper is None else {wrapper: state, 'epoch': 3}
  got = pretrained.read(save(content, f'a{suffix}'))
  assert {name: x.tolist() for name, x in got.items()} == {
    'fc.weight': [[1.0, 3.0], [2.0, 4.0]],
    'fc.bias': [0.5, 1.5],
    'a': [1.0],
    'bn.num_batches_tracked': 3,
  }
  kinds = [got[name].dtype.name for name in ('fc.weight', 'fc.bias', 'a')]
  assert kinds == ['float32'] * 3


def _refuse(path):
  with pytest.raises(ValueError) as caught:
    pretrained.read(path)
  message = str(caught.value)
  assert message.startswith(f'{path}: ') and '\n' not in message
  assert 'wanted a PyTorch state dictionary' in message
  assert len(message) < 500
  return message


class _Attack:
  """Would print, were it unpickled."""

  def __reduce__(self):
    return print, ('attacked',)


def test_nothing_that_the_file_says_is_executed(save, capsys):
  _refuse(save({'a': _Attack()}))
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize('content', [[1, 2], {}, {'epoch': 3}, {1: 2}, None])
def test_files_without_weights(save, content):
  assert 'holds no tensor at' in _refuse(save(content))


def test_whole_modules(save):
  import torch

  _refuse(save(torch.nn.Linear(2, 2)))


def test_damaged_files(save):
  import torch

  path = save({'a': torch.ones(100)})
  content = path.read_bytes()
  for damaged in (b'', b'text', b'PK\x03\x04', content[:-40], content[:300]):
    path.write_bytes(damaged)
    _refuse(path)
