import jax
import jax.numpy as jnp
import pytest

from benchmarks import layers
from hq_jax.core import convolutions


@pytest.mark.parametrize(
  ('layer', 'form'),
  [
    ((1, 2, 4, 4, 3, 1, 1), 'sum of products'),
    ((1, 2, 4, 4, 3, 1, 4), 'shifted products'),
  ],
)
def test_a_layer_is_measured_in_the_form_that_is_chosen(layer, form):
  assert layers.find_chosen(layer) == form
  found = layers.measure_layer(layer, num_rounds=1)
  assert list(found) == ['XLA', form]
  assert all(row['milliseconds'] > 0 for row in found.values())
  assert found['XLA']['over_xla'] == 1


def test_the_rival_is_xlas_own_convolution():
  x, kernel = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 3))
  lower = lambda: jax.jit(
    lambda x, kernel: convolutions.convolve(x, kernel, 1, 1)
  ).lower(x, kernel)
  with layers.without_choice():
    assert 'stablehlo.convolution' in lower().as_text()
  assert 'stablehlo.convolution' not in lower().as_text()
