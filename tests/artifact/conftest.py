"""A small residual network's artifact, and one a few hundred bytes long."""

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.core import qtensors

CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer')
CLASSES += ('dog', 'frog', 'horse', 'ship', 'truck')


def _codes(rng, shape, sparsity):
  half = (1 - sparsity) / 2
  return rng.choice(3, shape, p=[half, sparsity, half]).astype(np.int8) - 1


def _add_norm(found, norms, rng, path, channels):
  scale = np.exp(rng.normal(-1.5, 0.4, channels))
  found[f'params/{path}/scale'] = scale.astype(np.float16)
  found[f'params/{path}/bias'] = rng.normal(0, 0.6, channels).astype('f2')
  norms[path] = 1e-5


def make_resnet(sparsity=0.85):
  """ResNet-20 in shapes: 20 ternary kernels, 19 folded norms, 10 classes."""
  rng = np.random.default_rng(7)
  found, norms = {}, {}
  convs = [('stem/conv', 'stem/norm', (3, 3, 3, 16))]
  channels = 16
  for stage, width in enumerate((16, 32, 64)):
    for block in range(3):
      name = f'stage{stage}_block{block}'
      shapes = (3, 3, channels, width), (3, 3, width, width)
      for index, shape in enumerate(shapes):
        convs.append((f'{name}/conv{index}', f'{name}/norm{index}', shape))
      channels = width
  for conv, norm, shape in convs:
    found[f'params/{conv}/kernel'] = qtensors.TernaryTensor(
      _codes(rng, shape, sparsity)
    )
    _add_norm(found, norms, rng, norm, shape[-1])
  found['params/head/kernel'] = qtensors.TernaryTensor(
    _codes(rng, (64, 10), sparsity), np.full((1, 10), 0.25, np.float16)
  )
  found['params/head/bias'] = rng.normal(0, 1, 10).astype(np.float16)
  return artifact.Artifact(
    model='resnet20',
    model_args={'num_classes': 10, 'stage_sizes': [3, 3, 3], 'width': 16},
    input_shape=(32, 32, 3),
    preprocessing={
      'mean': [0.4914, 0.4822, 0.4465],
      'std': [0.247, 0.2435, 0.2616],
    },
    class_names=CLASSES,
    tensors=found,
    folded_norms=norms,
  )


def make_small():
  """Every kind of section and of tensor in a few hundred bytes."""
  rng = np.random.default_rng(3)
  found = {
    'params/a/kernel': qtensors.TernaryTensor(_codes(rng, (3, 4), 0.5)),
    'params/b/kernel': qtensors.TernaryTensor(
      _codes(rng, (4, 2), 0.5), np.array([[0.5, 2]], np.float32)
    ),
    'params/zero/kernel': qtensors.TernaryTensor(np.zeros((2, 2), np.int8)),
    'params/int/kernel': np.arange(-4, 4, dtype=np.int8),
    'params/c/kernel': qtensors.Int8Tensor(
      np.array([[127, 0, -3], [-127, 1, 2]], np.int8),
      np.array([0.5, 0, 2], np.float16),
    ),
    'params/line': qtensors.Int8Tensor(
      np.array([3, -127], np.int8), np.array([0.1], np.float32)
    ),
  }
  norms = {}
  _add_norm(found, norms, rng, 'norm', 4)
  return artifact.Artifact(
    'net', {'width': 4}, (3,), {}, ('é', '猫'), found, norms, (6.0, 0.25)
  )


def assert_equal(actual, expected):
  """Bit-identical, dtypes and all; the order of the tensors is free."""
  assert actual._replace(tensors={}) == expected._replace(tensors={})
  assert actual.tensors.keys() == expected.tensors.keys()
  for path, tensor in expected.tensors.items():
    found = actual.tensors[path]
    assert type(found) is type(tensor), path
    if isinstance(tensor, np.ndarray):
      found, tensor = (found,), (tensor,)
    for one, other in zip(found, tensor, strict=True):
      assert (one is None) == (other is None), path
      if one is not None:
        assert one.dtype == other.dtype and one.shape == other.shape, path
        assert one.tobytes() == other.tobytes(), path


@pytest.fixture(scope='session')
def resnet():
  return make_resnet()


@pytest.fixture(scope='session')
def make_net():
  return make_resnet


@pytest.fixture(scope='session')
def small():
  return make_small()


@pytest.fixture(scope='session')
def check_equal():
  return assert_equal
