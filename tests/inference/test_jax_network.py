"""Lists of layers, computed in JAX: the logits are those of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.core import convolutions
from hq_jax.core import trees
from hq_jax.inference import architectures
from hq_jax.inference import jax_network
from hq_jax.inference import onnx_engine
from tests.inference import drawn_files
from tests.inference import networks
from tests.models import reference


@pytest.mark.parametrize(('name', 'arguments', 'shape'), networks.PARAMS)
def test_logits_are_those_of_flax(rng, name, arguments, shape):
  model = models.build(name, num_classes=5, arguments=arguments)
  images = rng.normal(size=(3, *shape)).astype(np.float32)
  variables = reference.draw(model, images)
  layers = architectures.make_layers(name, arguments, shape, 5)
  wanted = jax.jit(model.apply)(variables, images)
  weights = jax_network.make_weights(layers, trees.flatten(variables))
  apply = jax.jit(lambda weights, x: jax_network.apply(layers, weights, x))
  found = apply(weights, images)
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)


def test_an_engine_of_depthwise_convolutions_takes_any_number():
  artifact = drawn_files.make('mobilenet_v2', {}, (32, 32, 3))
  images = drawn_files.draw_images(artifact, 3)
  wanted = onnx_engine.OnnxEngine(artifact).logits(images)
  found = jax_network.JaxEngine(artifact).logits(images)
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * largest)


def test_outputs_are_named(rng):
  name, arguments, shape = networks.NETWORKS[0]
  layers = architectures.make_layers(name, arguments, shape, 5)
  model = models.build(name, num_classes=5, arguments=arguments)
  images = rng.normal(size=(3, *shape)).astype(np.float32)
  variables = reference.draw(model, images)
  weights = jax_network.make_weights(layers, trees.flatten(variables))
  outputs = jax_network.compute_outputs(layers, weights, images)
  x = images.reshape(3, -1) @ variables['params']['dense1']['kernel']
  x = np.maximum(reference.norm(x, variables, 'norm1'), 0)
  np.testing.assert_allclose(outputs['norm1/relu'], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_of_depthwise_convolutions(rng, stride):
  x = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 1, 4)).astype(np.float32)
  ours = lambda x, k: convolutions.convolve(x, k, stride, 1, groups=4)
  plain = lambda x, k: jax.lax.conv_general_dilated(
    x,
    k,
    (stride, stride),
    [(1, 1)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=4,
  )
  find = lambda f: jax.grad(lambda *args: jnp.sum(f(*args) ** 2), (0, 1))
  for found, wanted in zip(
    find(ours)(x, kernel), find(plain)(x, kernel), strict=True
  ):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
