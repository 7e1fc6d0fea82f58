"""The perceptron against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from hq_jax.models import mlp
from tests.models import reference


def test_matches_the_reference(rng):
  model = mlp.MLP(num_classes=3, widths=(6, 5))
  x = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
  variables = reference.draw(model, x)
  assert jax.tree.map(jnp.shape, variables['params']) == {
    'dense1': {'kernel': (12, 6)},
    'norm1': {'scale': (6,), 'bias': (6,)},
    'dense2': {'kernel': (6, 5)},
    'norm2': {'scale': (5,), 'bias': (5,)},
    'head': {'kernel': (5, 3), 'bias': (3,)},
  }
  wide = jax.tree.map(np.float64, variables)
  params = wide['params']
  y = np.float64(x).reshape(4, 12)
  for number in (1, 2):
    y = y @ params[f'dense{number}']['kernel']
    y = np.maximum(reference.norm(y, wide, f'norm{number}'), 0)
  wanted = y @ params['head']['kernel'] + params['head']['bias']
  logits = jax.jit(model.apply)(variables, x)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
