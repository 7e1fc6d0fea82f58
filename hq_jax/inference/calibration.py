"""Ranges of activations, measured on images, for engines with 8-bit ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import importlib.util
import itertools
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.inference import architectures
from hq_jax.inference import network
from hq_jax.runtime import address_space

# Of images `[n, height, width, channels]`: the largest `|x|` in the output of
# each layer, `[layers]`.
_FindLargest = Callable[[np.ndarray], np.ndarray]

# The outputs of all layers are in memory at once: 27 MB an image at most.
_BATCH_SIZE = 8
# Of float16. A layer of zeros alone gets a range, too: no engine divides by 0.
_LEAST, _MOST = 2.0**-14, 65504.0


def make_placeholders(
  model: str,
  arguments: Mapping[str, Any],
  input_shape: Sequence[int],
  num_classes: int,
) -> tuple[float, ...]:
  """As many numbers as will be measured: a file with them has its size."""
  layers = architectures.make_layers(model, arguments, input_shape, num_classes)
  return (1.0,) * len(architectures.find_activations(layers))


def measure(
  artifact: artifact_lib.Artifact, images: Iterable[np.ndarray]
) -> tuple[float, ...]:
  """Measures the ranges of a network's activations.

  Of each layer that an engine with 8-bit activations quantizes, `max |x|` over
  all that it puts out, rounded to float16. JAX computes it, or onnxruntime
  where there is no JAX.

  Args:
    artifact: of a network that `architectures.make_layers` knows.
    images: float32, of the shape `artifact.input_shape`, as the network takes
      them: cropped and normalized.

  Returns:
    One number a layer, for `Artifact.activation_ranges`.

  Raises:
    ValueError: there is no image, one has another shape or is not finite, or
      the network is not known.
  """
  layers = network.read_layers(artifact)
  names = list(architectures.find_activations(layers))
  has_jax = importlib.util.find_spec('jax') is not None
  find_largest = (_make_jax if has_jax else _make_onnx)(artifact, names)
  found = []
  rest = iter(images)
  while batch := list(itertools.islice(rest, _BATCH_SIZE)):
    for image in batch:
      if image.shape != artifact.input_shape:
        raise ValueError(
          f'images has one of shape {image.shape}, wanted'
          f' {artifact.input_shape}'
        )
    # All of one size, so that it compiles once.
    batch += batch[:1] * (_BATCH_SIZE - len(batch))
    found.append(find_largest(np.stack(batch)))
  if not found:
    raise ValueError('images is empty, wanted at least one')
  largest = np.max(found, axis=0)
  for name, value in zip(names, largest.tolist(), strict=True):
    if not np.isfinite(value):
      raise ValueError(f'the output of {name} is {value}, wanted finite ones')
  rounded = np.clip(largest, _LEAST, _MOST).astype(np.float16)
  return tuple(rounded.astype(float).tolist())


def _make_jax(
  artifact: artifact_lib.Artifact, names: Sequence[str]
) -> _FindLargest:
  import jax
  import jax.numpy as jnp

  from hq_jax.inference import jax_network

  address_space.check(address_space.JAX_BYTES)
  layers = network.read_layers(artifact)

  @jax.jit
  def find_largest(weights, images):
    outputs = jax_network.compute_outputs(layers, weights, images)
    return jnp.stack([jnp.abs(outputs[name]).max() for name in names])

  leaves = jax_network.read_leaves(artifact)
  weights = jax_network.make_weights(layers, leaves)
  return lambda images: np.asarray(find_largest(weights, images))


def _make_onnx(
  artifact: artifact_lib.Artifact, names: Sequence[str]
) -> _FindLargest:
  from hq_jax.inference import onnx_engine

  without = artifact._replace(activation_ranges=())  # So it does not round.
  engine = onnx_engine.OnnxEngine(without, more_outputs=names)
  return lambda images: np.array(
    [np.abs(output).max() for output in engine.outputs(images)[1:]]
  )
