"""Folding: by hand, against float64, and against Flax's own forward pass."""

from flax import linen as nn
import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import folding
from hq_jax.core import qtensors
from tests import compiling

CODES = np.array([[1, 0], [0, -1], [1, 1]], np.int8)
KERNEL = 'params/c/kernel'


class Net(nn.Module):
  """Two convolutions and a norm that follows no kernel directly."""

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(True, epsilon=1e-3, name='first')(x)
    x = nn.Conv(6, (3, 3), use_bias=False, name='conv')(x)
    x = nn.relu(nn.BatchNorm(True, epsilon=1e-5, name='norm')(x))
    x = nn.Conv(4, (1, 1), use_bias=False, name='dense_conv')(x)
    x = nn.relu(nn.BatchNorm(True, epsilon=1e-5, name='norm2')(x))
    return nn.Dense(3, name='head')(x.mean((1, 2)))


def _make_net():
  """Random variables of `Net`, with 'conv' and 'head' ternary."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 8, 8, 2)).astype(np.float32)
  shapes = jax.eval_shape(Net().init, jax.random.key(0), x)
  variables = jax.tree.map(
    lambda leaf: (
      rng.uniform(0.3, 1.7, leaf.shape).astype(np.float32)
      * rng.choice([-1, 1], leaf.shape).astype(np.float32)
    ),
    shapes,
  )
  for stats in variables['batch_stats'].values():
    stats['var'] = np.abs(stats['var'])
  ternary = {}
  for module in ('conv', 'head'):
    kernel = variables['params'][module]['kernel']
    codes = rng.integers(-1, 2, kernel.shape).astype(np.int8)
    shape = [1] * (kernel.ndim - 1) + [kernel.shape[-1]]
    scale = rng.uniform(0.05, 0.3, shape).astype(np.float32)
    variables['params'][module]['kernel'] = codes * scale
    ternary[f'params/{module}/kernel'] = qtensors.TernaryTensor(codes, scale)
  return variables, ternary, x


PAIRS = {'norm': 'conv', 'norm2': 'dense_conv'}
EPSILONS = {'first': 1e-3, 'norm': 1e-5, 'norm2': 1e-5}


def _one_norm(**changes):
  """One kernel [3, 2], one norm of 2 channels: (variables, ternary)."""
  leaves = {
    'scale': np.array([4.0, 2.0]),
    'bias': np.array([1.0, 0.0]),
    'mean': np.array([3.0, -1.0]),
    'var': np.array([3.0, 0.0]),
  } | changes
  leaves = {k: v for k, v in leaves.items() if v is not None}
  stats = {k: leaves.pop(k) for k in ('mean', 'var') if k in leaves}
  variables = {
    'params': {'c': {'kernel': CODES * np.float32(0.5)}, 'n': leaves},
    'batch_stats': {'n': stats},
  }
  return variables, qtensors.TernaryTensor(CODES, np.array([[0.5, 0.25]], 'f4'))


@pytest.mark.parametrize(
  ('kernel', 'scale', 'kept_as'),
  [
    (
      qtensors.TernaryTensor(CODES, np.array([[0.5, 0.25]], np.float32)),
      [2 * 0.5, 2 * 0.25],
      np.float16,
    ),
    # The same, [3, 2], as one codeword for a column.
    (
      qtensors.CodebookTensor(
        np.array([[0, 1]], np.uint8),
        np.array([[1, 0, 1], [0, -1, 1]], np.float32),
        np.array([0.5, 0.25]),
      ),
      [2 * 0.5, 2 * 0.25],
      np.float16,
    ),
    # Beyond the range of float16: it must not be rounded to it.
    (
      qtensors.Int8Tensor(
        np.array([[127, 0], [3, -127], [-1, 2]], np.int8),
        np.array([0.5, 2.0**-30], np.float32),
      ),
      [2 * 0.5, 0],
      np.float32,
    ),
  ],
  ids=['ternary', 'codebook', 'int8'],
)
def test_by_hand(kernel, scale, kept_as):
  variables, _ = _one_norm()
  kernels = {'ternary': {KERNEL: kernel}}
  if isinstance(kernel, qtensors.Int8Tensor):
    kernels = {'ternary': {}, 'int8': {KERNEL: kernel}}
  found, norms = artifact.fold(
    variables, pairs={'n': 'c'}, epsilons={'n': 1.0}, **kernels
  )
  # a = 4 / sqrt(4), 2 / sqrt(1); b = 1 - 2 * 3, 0 + 2 * 1.
  assert norms == {'n': 1.0}
  assert set(found) == {KERNEL, 'params/n/scale', 'params/n/bias'}
  assert found['params/n/scale'].tolist() == scale
  assert found['params/n/bias'].tolist() == [-5, 2]
  assert found['params/n/scale'].dtype == np.float16
  *folded, without = found[KERNEL]
  assert type(found[KERNEL]) is type(kernel) and without is None
  for array, wanted in zip(folded, kernel[:-1], strict=True):
    assert array.dtype == wanted.dtype
    np.testing.assert_array_equal(array, wanted)
  # Without a pair, the kernel keeps its scale.
  for epsilons, max_error, wanted in (
    ({}, None, [4, 2]),
    ({'n': 1.0}, None, [2, 2]),
    ({'n': 1.0}, 0.01, [2, 2]),
  ):
    found, _ = artifact.fold(
      variables, pairs={}, epsilons=epsilons, max_error=max_error, **kernels
    )
    assert found['params/n/scale'].tolist() == wanted
    assert found[KERNEL].scale.dtype == kept_as
    assert found[KERNEL].scale.tolist() == kernel.scale.tolist()


@pytest.mark.parametrize('kernel', [None, qtensors.TernaryTensor(CODES)])
def test_a_pair_without_a_scale_changes_neither(kernel):
  variables, _ = _one_norm()
  given = {} if kernel is None else {KERNEL: kernel}
  for pairs in ({}, {'n': 'c'}):
    found, _ = artifact.fold(variables, given, pairs, {'n': 1.0})
    assert found['params/n/scale'].tolist() == [2, 2]
    if kernel is None:
      np.testing.assert_array_equal(found[KERNEL], CODES * 0.5)
    else:
      assert found[KERNEL].scale is None


def test_a_scale_along_other_axes_stays_with_its_kernel():
  variables, kernel = _one_norm()
  kernel = kernel._replace(scale=np.full((3, 2), 0.5, np.float32))
  found, _ = artifact.fold(variables, {KERNEL: kernel}, {'n': 'c'}, {'n': 1.0})
  assert found['params/n/scale'].tolist() == [2, 2]
  assert found[KERNEL].scale.tolist() == kernel.scale.tolist()


def test_values_beyond_float16_become_float32():
  variables, kernel = _one_norm(bias=np.array([1e5, 0.0]))
  ternary = {KERNEL: kernel}
  found, _ = artifact.fold(variables, ternary, {'n': 'c'}, {'n': 1.0})
  assert found['params/n/bias'].dtype == np.float32
  assert found['params/n/bias'].tolist() == [1e5 - 6, 2]
  assert found['params/n/scale'].dtype == np.float16
  with pytest.raises(ValueError, match='beyond the range of float32'):
    variables, _ = _one_norm(bias=np.array([1e39, 0.0]))
    artifact.fold(variables, {}, {}, {'n': 1.0})


def test_rounds_once():
  # 1 + 2^-11 + 2^-30 rounds up to 1 + 2^-10 in float16. In float32 it would
  # first lose its last bit, and then tie to 1.
  value = 1 + 2.0**-11 + 2.0**-30
  zeros, values = np.zeros(2), np.full(2, value)
  variables, _ = _one_norm(mean=zeros, var=zeros, scale=values, bias=values)
  found, _ = artifact.fold(variables, {}, {}, {'n': 1.0})
  for leaf in ('scale', 'bias'):
    assert found[f'params/n/{leaf}'].tolist() == [1 + 2.0**-10] * 2


def test_int8_with_one_axis_keeps_its_scale():
  variables, _ = _one_norm()
  variables['params']['c']['kernel'] = np.array([3.0, -2])
  kernel = qtensors.Int8Tensor(np.array([3, -2], 'i1'), np.ones(1, 'f2'))
  found, _ = artifact.fold(
    variables, {}, {'n': 'c'}, {'n': 1.0}, int8={KERNEL: kernel}
  )
  assert found[KERNEL].scale.tolist() == [1]
  assert found['params/n/scale'].tolist() == [2, 2]


@pytest.mark.parametrize(
  ('max_error', 'kernel', 'floats'),
  [
    (0.02, 'int8', np.float16),
    (1e-3, np.float16, np.float16),
    (0.0, np.float32, np.float32),
  ],
)
def test_leaves_are_encoded_within_an_error(max_error, kernel, floats):
  rng = np.random.default_rng(0)
  names = 'scale', 'bias', 'mean', 'var'
  variables, _ = _one_norm(**{k: rng.uniform(1, 2, 9) for k in names})
  variables['params']['c']['kernel'] = CODES
  stats = {'mean': rng.uniform(1, 2, 9), 'var': rng.uniform(1, 2, 9)}
  variables['params'] |= {
    'd': {'kernel': rng.normal(size=(50, 9)), 'bias': rng.normal(size=50)},
    'other': {'scale': rng.uniform(1, 2, 9)},
  }
  variables['batch_stats']['other'] = stats
  ternary = {KERNEL: qtensors.TernaryTensor(CODES, np.full((1, 2), 0.1, 'f4'))}
  found, _ = artifact.fold(
    variables, ternary, {}, {'n': 1.0}, max_error=max_error
  )
  # What is no kernel in `ternary` keeps to the budget; its scale does not.
  assert found[KERNEL].scale.dtype == np.float16
  for path in ('params/d/kernel', 'params/d/bias', 'params/other/scale'):
    leaf = found[path]
    is_int8 = isinstance(leaf, qtensors.Int8Tensor)
    assert ('int8' if is_int8 else leaf.dtype) == kernel, path
  # Neither folded norms nor statistics become int8.
  for path in ('params/n/scale', 'params/n/bias', 'batch_stats/other/var'):
    assert found[path].dtype == floats, path
  # Rounded to the file's types once, from float64.
  np.testing.assert_array_equal(
    found['batch_stats/other/mean'], stats['mean'].astype(floats)
  )


def test_max_error_names_the_leaf():
  variables, _ = _one_norm(bias=np.array([1e39, 0.0]))
  with pytest.raises(ValueError, match="'params/n/bias': values: a value is b"):
    folding.fold(variables, {}, {}, {'n': 1.0}, max_error=1.0)


@pytest.fixture(scope='module')
def net():
  variables, ternary, x = _make_net()
  apply = compiling.quick_jit(Net().apply)
  logits = apply(variables, x)
  assert np.abs(logits).max() > 0.1
  return variables, ternary, logits, lambda found: apply(found, x)


@pytest.mark.parametrize(
  ('dtype', 'max_error', 'tolerance'),
  [
    (np.float32, None, 2e-6),
    (np.float16, None, 3e-3),
    (np.float16, 0.01, 0.02),
  ],
)
def test_flax_computes_the_same_from_the_file(net, dtype, max_error, tolerance):
  variables, ternary, expected, apply = net
  path, int8 = 'params/conv/kernel', {}
  if max_error is not None:
    # The norm behind it takes the scales of 'conv'; 'dense_conv' keeps its own.
    ternary = {k: x for k, x in ternary.items() if k != path}
    int8 = {path: artifact.quantize_int8(variables['params']['conv']['kernel'])}
  found, norms = artifact.fold(
    variables, ternary, PAIRS, EPSILONS, dtype, int8=int8, max_error=max_error
  )
  assert found[path].scale is None
  is_int8 = isinstance(found['params/dense_conv/kernel'], qtensors.Int8Tensor)
  assert is_int8 == bool(int8)
  data = artifact.dumps(
    artifact.Artifact('net', {}, (8, 8, 2), {}, (), found, norms)
  )
  rebuilt = artifact.to_variables(artifact.loads(data))
  assert jax.tree.structure(rebuilt) == jax.tree.structure(variables)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(rebuilt)} == {'float32'}
  np.testing.assert_allclose(
    apply(rebuilt), expected, rtol=0, atol=tolerance * np.abs(expected).max()
  )


@pytest.mark.parametrize(
  ('changes', 'epsilon', 'message'),
  [
    *(
      ({leaf: np.array([1.0, value])}, 1.0, f'n/{leaf}.: NaN or infinity')
      for leaf in ('scale', 'bias', 'mean', 'var')
      for value in (np.nan, np.inf)
    ),
    ({'var': None}, 1.0, "'batch_stats/n/var' is not in variables"),
    ({'scale': None}, 1.0, "'params/n/scale' is not in variables"),
    ({'var': np.array([-0.5, 1])}, 1.0, 'variance . epsilon is not positive'),
    ({}, 0.0, 'variance . epsilon is not positive'),
    ({'bias': np.zeros(3)}, 1.0, 'differ in shape'),
    ({'scale': np.zeros(3)}, 1.0, 'scale has shape'),
    ({}, -1.0, r'wanted \[0, 1\]'),
    ({}, 2.0, r'wanted \[0, 1\]'),
    ({}, float('nan'), r'wanted \[0, 1\]'),
  ],
)
def test_bad_norms_are_refused(changes, epsilon, message):
  variables, _ = _one_norm(**changes)
  with pytest.raises(ValueError, match=message):
    folding.fold(variables, {}, {'n': 'c'}, {'n': epsilon})


@pytest.mark.parametrize(
  ('pairs', 'epsilons', 'message'),
  [
    ({'m': 'c'}, {'n': 1.0}, "pair 'm': no epsilon"),
    ({'n': 'd'}, {'n': 1.0}, "no kernel in params of 'd'"),
    ({}, {'m': 1.0}, "norm 'm': 'params/m/scale' is not in variables"),
    ({'n': 'c', 'n2': 'c'}, {'n': 1.0, 'n2': 1.0}, 'more than one norm'),
    ({'n': 'biased'}, {'n': 1.0}, "'biased' has a bias in between"),
  ],
)
def test_bad_pairs_are_refused(pairs, epsilons, message):
  variables, kernel = _one_norm()
  biased = {'kernel': CODES, 'bias': np.zeros(2)}
  variables['params']['biased'] = biased
  with pytest.raises(ValueError, match=message):
    folding.fold(variables, {KERNEL: kernel}, pairs, epsilons)


TERNARY = qtensors.TernaryTensor(CODES, np.ones((1, 2), np.float32))
INT8 = qtensors.Int8Tensor(CODES, np.ones(2, np.float32))
BOOK = qtensors.CodebookTensor(
  np.zeros((1, 2), np.uint8), np.ones((1, 3), np.float16), np.ones(2)
)
LONG, NAN = np.ones(3, np.float32), np.array([1, np.nan], np.float32)


@pytest.mark.parametrize(
  ('ternary', 'int8', 'message'),
  [
    ({'k': TERNARY}, {}, "ternary 'k': no such leaf in variables"),
    ({}, {'k': INT8}, "int8 'k': no such leaf in variables"),
    (
      {KERNEL: TERNARY._replace(codes=CODES.T)},
      {},
      r'ternary .* shape \(2, 3\), in variables \(3, 2\)',
    ),
    (
      {KERNEL: BOOK._replace(indices=np.zeros((2, 2), np.uint8))},
      {},
      r'codebook .*: shape \(6, 2\)',
    ),
    ({KERNEL: TERNARY._replace(scale=LONG)}, {}, r'scale has shape \(3,\)'),
    ({}, {KERNEL: INT8._replace(scale=LONG)}, r'scale has shape \(3,\)'),
    ({KERNEL: BOOK._replace(scale=LONG)}, {}, r'scale has shape \(3,\)'),
    ({KERNEL: TERNARY._replace(scale=NAN)}, {}, 'scale.: NaN or infinity'),
    ({}, {KERNEL: INT8._replace(scale=NAN)}, 'scale.: NaN or infinity'),
    (
      {KERNEL: BOOK._replace(codewords=np.full((1, 3), np.inf))},
      {},
      'codewords.*: NaN or infinity',
    ),
    (
      {KERNEL: TERNARY},
      {KERNEL: INT8},
      "for '.*', which is in ternary",
    ),
  ],
)
def test_bad_kernels_are_refused(ternary, int8, message):
  variables, _ = _one_norm()
  with pytest.raises(ValueError, match=message):
    folding.fold(variables, ternary, {}, {}, int8=int8)
