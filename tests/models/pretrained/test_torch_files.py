"""What `torch.save` writes, as training scripts use it, and hostile files."""

import argparse
import collections
import os
import pathlib
import pickle
import subprocess
import zipfile

import numpy as np
import pytest

from hq_jax.models import pretrained

torch = pytest.importorskip('torch')


@pytest.fixture
def save(tmp_path):
  """Returns a function: what `torch.save` writes to the path of the file."""

  def save(content, name='weights.pth', **kwargs):
    torch.save(content, tmp_path / name, **kwargs)
    return tmp_path / name

  return save


def _draw_state(prefix=''):
  return collections.OrderedDict(
    {
      f'{prefix}fc.weight': torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T,
      f'{prefix}fc.bias': torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
      f'{prefix}a': torch.nn.Parameter(torch.ones(1, dtype=torch.float16)),
      f'{prefix}bn.num_batches_tracked': torch.tensor(3),
    }
  )


_VALUES = {
  'fc.weight': [[1.0, 3.0], [2.0, 4.0]],
  'fc.bias': [0.5, 1.5],
  'a': [1.0],
  'bn.num_batches_tracked': 3,
}


@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'net'])
@pytest.mark.parametrize(
  'name',
  [
    *('a.pth', 'a.pt', 'a.bin', 'A.PTH', 'a.ckpt', 'a.pkl'),
    *('model_best.pth.tar', 'resnet18-f37072fd', 'a.safetensors'),
  ],
)
@pytest.mark.parametrize('is_zip', [True, False])
def test_what_training_scripts_write(save, wrapper, name, is_zip):
  state = _draw_state('module.')
  content = state if wrapper is None else {'epoch': 3, wrapper: state}
  got = pretrained.read(
    save(content, name, _use_new_zipfile_serialization=is_zip)
  )
  assert {name: x.tolist() for name, x in got.items()} == _VALUES
  kinds = [got[name].dtype.name for name in ('fc.weight', 'fc.bias', 'a')]
  assert kinds == ['float32'] * 3


class _Settings(dict):
  """A class of a script, which the reader does not have."""


def test_what_stands_beside_the_weights_is_passed_over(save):
  settings = _Settings()
  settings.folder = pathlib.Path('runs')
  path = save(
    {
      'args': argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath('a')),
      'settings': settings,
      'best': np.float64(0.5),
      'groups': collections.defaultdict(list, a=[1]),
      'optimizer': {'state': {0: {'exp_avg': torch.ones(2)}}},
      'model': {'a': torch.ones(2)},
    }
  )
  assert {n: x.tolist() for n, x in pretrained.read(path).items()} == {
    'a': [1.0, 1.0]
  }


def test_several_dictionaries_give_their_names(save):
  state = {'module.a': torch.ones(1)}
  ema = {'n_averaged': torch.tensor(5), 'module.a': torch.zeros(1)}
  got = pretrained.read(save({'model': state, 'more': {'ema': ema}}))
  assert {name: x.tolist() for name, x in got.items()} == {
    'model.module.a': [1.0],
    'more.ema.n_averaged': 5,
    'more.ema.module.a': [0.0],
  }


def _refuse(path):
  with pytest.raises(ValueError) as caught:
    pretrained.read(path)
  message = str(caught.value)
  assert message.startswith(f'{path}: ') and message.isprintable()
  assert len(message) < 500
  return message.removeprefix(f'{path}: ')


class _Call:
  """Is pickled as a call, which would leave a mark."""

  def __init__(self, *call):
    self._call = call

  def __reduce__(self):
    return self._call[0], self._call[1:]


@pytest.mark.parametrize(
  ('function', 'name'),
  [
    (print, 'print'),
    (os.system, 'posix.system'),
    (subprocess.check_output, 'subprocess.check_output'),
  ],
)
@pytest.mark.parametrize('place', ['weights', 'args'])
def test_a_call_is_not_made_but_named(save, capfd, function, name, place):
  content = {'state_dict': {'a': torch.ones(1)}, 'args': 0}
  target = content['state_dict'] if place == 'weights' else content
  target[place] = _Call(function, 'echo attacked')
  path = save(content)
  old = save(content, 'old', _use_new_zipfile_serialization=False)
  plain = path.with_name('plain.pkl')
  plain.write_bytes(pickle.dumps({'a': target[place]}, protocol=2))
  for file in (path, old, plain):
    assert f'asks to call {name}, wanted' in _refuse(file)
  assert 'attacked' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize('content', [[1, 2], {}, {'epoch': 3}, {1: 2}, None])
def test_files_without_weights(save, content):
  assert 'holds no tensor at' in _refuse(save(content))


def test_whole_modules(save):
  message = _refuse(save(torch.nn.Linear(2, 2)))
  assert message.startswith('is an object of torch.nn.modules.linear.Linear')
  assert message.endswith('torch.save(model.state_dict(), FILE)')


def test_dictionaries_that_repeat_without_end(save):
  content = {'a': 1}
  for _ in range(15):
    content = dict.fromkeys('abcdefgh', content)
  assert 'more than 100,000 entries' in _refuse(save(content))
  content['self'] = content
  assert 'more than 100,000 entries' in _refuse(save(content))


@pytest.mark.parametrize(
  'dtype',
  [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2),
    *(torch.int8, torch.bool),
  ],
)
def test_views_larger_than_the_file(save, dtype):
  # 8 GB, were they arrays.
  path = save({'a': torch.zeros(1, dtype=dtype).expand(2**31)})
  assert 'unfolds to 8,589,934,592 bytes (most of them a)' in _refuse(path)
  # Some are what somebody wanted to save.
  path = save({'a': torch.ones(1, dtype=dtype).expand(64)})
  np.testing.assert_array_equal(pretrained.read(path)['a'], np.ones(64))


def test_an_archive_that_unfolds_to_far_more(save, tmp_path):
  path = tmp_path / 'bomb.pth'
  with (
    zipfile.ZipFile(save({'a': torch.zeros(4)})) as whole,
    zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as bomb,
  ):
    for name in whole.namelist():
      is_data = name.endswith('data/0')
      bomb.writestr(name, bytes(1 << 27) if is_data else whole.read(name))
  assert 'unfolds to 134,2' in _refuse(path)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  ('make', 'kind'),
  [
    (lambda: torch.ones(3).to_sparse(), 'sparse'),
    (lambda: torch.empty(3, device='meta'), 'without values'),
    (lambda: torch.zeros(3, dtype=torch.complex32), 'torch.complex32'),
    (
      lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
      'quantized',
    ),
    (
      lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
      'nested',
    ),
  ],
)
def test_tensors_that_are_no_arrays(save, make, kind):
  path = save({'a\x1b[2J': make()})
  assert _refuse(path).startswith(rf'a\x1b[2J is {kind}, wanted a tensor of')


@pytest.mark.filterwarnings('ignore')
def test_torchscript(tmp_path):
  path = tmp_path / 'script.pt'
  torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
  assert _refuse(path).startswith('is a TorchScript archive, wanted')


def test_damaged_files(save):
  path = save({'a': torch.ones(100)})
  content = path.read_bytes()
  for damaged in (b'', b'text', b'PK\x03\x04', content[:-40], content[:300]):
    path.write_bytes(damaged)
    assert 'wanted a PyTorch state dictionary' in _refuse(path)
