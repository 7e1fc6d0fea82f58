from flax import linen as nn
import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import variables
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def test_variance_complements_every_epsilon_to_one():
  some = [0, 1e-8, 1e-6, 1e-5, 1e-3, 0.01, 0.5, 1]
  more = np.random.default_rng(0).uniform(0, 1, 20_000).tolist()
  for epsilon in some + more:
    variance = variables.unit_variance(epsilon)
    assert variance.dtype == np.float32 and variance >= 0
    assert variance + np.float32(epsilon) == np.float32(1)
    assert abs(float(variance) - (1 - epsilon)) <= 2**-24


@pytest.mark.parametrize('epsilon', [-1e-5, 1.5, float('nan')])
def test_variance_refuses_other_epsilons(epsilon):
  with pytest.raises(ValueError, match=r'wanted one in \[0, 1\]'):
    variables.unit_variance(epsilon)


def test_batch_norm_computes_scale_and_bias_alone():
  epsilon = 1e-3
  rng = np.random.default_rng(0)
  scale, bias = rng.normal(size=(2, 5)).astype(np.float16)
  given = EMPTY._replace(
    tensors={'params/n/scale': scale, 'params/n/bias': bias},
    folded_norms={'n': epsilon},
  )
  found = artifact.to_variables(given)
  norm = nn.BatchNorm(use_running_average=True, epsilon=epsilon)
  leaves = {name: tree['n'] for name, tree in found.items()}
  x = rng.normal(size=(7, 5)).astype(np.float32)
  y = jax.jit(norm.apply)(leaves, x)
  expected = x.astype('f8') * scale.astype('f8') + bias.astype('f8')
  np.testing.assert_allclose(y, expected, rtol=0, atol=3e-7)


def test_tree_by_hand():
  codes = np.array([[1, 0], [-1, 1]], np.int8)
  found = {
    'params/a/kernel': qtensors.TernaryTensor(codes),
    'params/b/kernel': qtensors.TernaryTensor(
      codes, np.array([[0.5, 3]], np.float16)
    ),
    'params/q/kernel': qtensors.Int8Tensor(
      np.array([[127, -3], [0, 1]], np.int8), np.array([0.5, 3], np.float32)
    ),
    'params/q/folded': qtensors.Int8Tensor(codes),
    'params/q/line': qtensors.Int8Tensor(
      np.array([-127, 2, 0], np.int8), np.array([0.25], np.float16)
    ),
    'params/v/kernel': qtensors.CodebookTensor(
      np.array([[0, 1], [2, 0]], np.uint8),
      np.array([[1, 2], [3, 4], [5, 6]], np.float16),
      np.array([0.5, 3], np.float32),
    ),
    'params/v/folded': qtensors.CodebookTensor(
      np.array([[1, 0]], np.uint8), np.array([[0.1], [-1]], np.float32)
    ),
    'params/n/scale': np.array([2, 4], np.float16),
    'params/n/bias': np.array([1, 0], np.float16),
    'params/c': np.array([-7], np.int8),
    'ema/step': np.array(1 << 30, np.int32),
    'batch_stats/other/mean': np.array([0.25], np.float16),
  }
  given = EMPTY._replace(tensors=found, folded_norms={'n': 1e-3})
  tree = artifact.to_variables(given)
  assert set(tree) == {'params', 'batch_stats', 'ema'}
  assert tree['params']['a']['kernel'].tolist() == [[1, 0], [-1, 1]]
  assert tree['params']['b']['kernel'].tolist() == [[0.5, 0], [-0.5, 3]]
  assert tree['params']['q']['kernel'].tolist() == [[63.5, -9], [0, 3]]
  assert tree['params']['q']['folded'].tolist() == [[1, 0], [-1, 1]]
  assert tree['params']['q']['line'].tolist() == [-31.75, 0.5, 0]
  assert tree['params']['v']['kernel'].tolist() == [
    *([0.5, 9], [1, 12]),
    *([2.5, 3], [3, 6]),
  ]
  folded = tree['params']['v']['folded']
  assert folded.tolist() == [[-1, float(np.float32(0.1))]]
  assert tree['params']['c'].tolist() == [-7]
  assert tree['batch_stats']['n']['mean'].tolist() == [0, 0]
  assert tree['batch_stats']['n']['var'].shape == (2,)
  assert tree['batch_stats']['other']['mean'].tolist() == [0.25]
  assert tree['ema']['step'] == 1 << 30
  for leaf in jax.tree.leaves(
    {'params': tree['params'], 'stats': tree['batch_stats']}
  ):
    assert leaf.dtype == np.float32


def test_statistics_that_are_there_already_are_refused():
  ones = np.ones(2, np.float16)
  given = EMPTY._replace(
    tensors={
      'params/n/scale': ones,
      'params/n/bias': ones,
      'batch_stats/n/mean': ones,
    },
    folded_norms={'n': 1e-5},
  )
  with pytest.raises(ValueError, match="'batch_stats/n/mean': it is taken"):
    artifact.to_variables(given)
