"""Convolutions and pooling, in the form of each platform and of each shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.core import convolutions


def _draw(rng, *shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
  ('side', 'size', 'stride', 'padding', 'channels', 'out', 'groups'),
  [
    (1, 3, 1, 1, 5, 7, 1),
    (2, 3, 1, 1, 4, 6, 1),
    (2, 3, 2, 1, 4, 6, 1),
    (3, 3, 2, 1, 3, 4, 1),
    (5, 1, 2, 0, 4, 3, 1),
    (4, 7, 2, 3, 3, 4, 1),
    (3, 2, 2, 0, 3, 4, 1),
    (7, 3, 1, 1, 128, 128, 1),
    (9, 3, 1, 1, 3, 4, 1),
    (5, 3, 1, 1, 6, 6, 6),
    (6, 3, 2, 1, 6, 6, 6),
  ],
)
def test_values_and_gradients_are_those_of_xla(
  rng, side, size, stride, padding, channels, out, groups
):
  x = _draw(rng, 2, side, side, channels)
  kernel = _draw(rng, size, size, channels // groups, out)
  wanted = convolutions.convolve_plainly(x, kernel, stride, padding, groups)
  seed = _draw(rng, *wanted.shape)

  def differentiate(convolve):
    loss = lambda x, w: jnp.sum(seed * convolve(x, w, stride, padding, groups))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)

  found = convolutions.convolve(x, kernel, stride, padding, groups)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  ours = differentiate(convolutions.convolve)
  theirs = differentiate(convolutions.convolve_plainly)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    ours,
    theirs,
  )


def test_of_bfloat16_only_the_result_is_rounded(rng):
  x, kernel = _draw(rng, 2, 2, 2, 64), _draw(rng, 3, 3, 64, 8)
  low = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  found = convolutions.convolve(*low, 1, 1)
  exact = convolutions.convolve_plainly(
    *(z.astype(jnp.float32) for z in low), 1, 1
  )
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize('side', [4, 7])
def test_the_largest_are_the_same_and_so_is_their_gradient(rng, side):
  # Of equal ones, which rounded numbers often are, the first has it.
  x = jnp.round(_draw(rng, 2, side, side, 3))
  seed = _draw(rng, 2, (side - 1) // 2 + 1, (side - 1) // 2 + 1, 3)
  plain = lambda x: jax.lax.reduce_window(
    x,
    -jnp.inf,
    jax.lax.max,
    (1, 3, 3, 1),
    (1, 2, 2, 1),
    ((0, 0), (1, 1), (1, 1), (0, 0)),
  )
  ours = lambda x: convolutions.max_pool(x, 3, 2, 1)
  for images in (x, x.at[0, 0, 0, 0].set(jnp.nan)):
    np.testing.assert_array_equal(ours(images), plain(images))
  found, wanted = (
    jax.grad(lambda x, pool=pool: jnp.sum(seed * pool(x)))(x)
    for pool in (ours, plain)
  )
  # Several windows may share a pixel: they are added in another order.
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


def test_on_other_platforms_they_are_xlas_own(rng):
  x, kernel = _draw(rng, 2, 2, 2, 4), _draw(rng, 3, 3, 4, 4)
  loss = lambda x, kernel: jnp.sum(
    convolutions.max_pool(convolutions.convolve(x, kernel, 1, 1), 3, 2, 1)
  )
  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  for platform in ('tpu', 'cuda'):
    lowered = step.trace(x, kernel).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert text.count('stablehlo.convolution') >= 2
    assert 'dot_general' not in text
  assert 'convolution' not in step.lower(x, kernel).as_text()
