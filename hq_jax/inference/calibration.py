"""Ranges of activations, measured on images, for engines with 8-bit ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.inference import architectures

# Of images `[n, height, width, channels]`, the largest `|x|` of each image at
# each layer, `[n, layers]`.
_FindLargest = Callable[[np.ndarray], np.ndarray]

_BATCH_SIZE = 32
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
  all that it puts out, rounded to float16.

  Args:
    artifact: of a network that `architectures.make_layers` knows.
    images: of the shape `artifact.input_shape`, float32, as the network takes
      them: cropped and normalized.

  Returns:
    One number a layer, for `Artifact.activation_ranges`.

  Raises:
    ValueError: there is no image, or the network is another.
  """
  layers = architectures.make_layers(
    artifact.model,
    artifact.model_args,
    artifact.input_shape,
    len(artifact.class_names),
  )
  find_largest = _compile(artifact, layers)
  found = [
    find_largest(batch)[:number] for batch, number in _make_batches(images)
  ]
  if not found:
    raise ValueError('images is empty, wanted at least one')
  largest = np.concatenate(found).max(axis=0)
  rounded = np.clip(largest, _LEAST, _MOST).astype(np.float16)
  return tuple(rounded.astype(float).tolist())


def _make_batches(
  images: Iterable[np.ndarray],
) -> Iterator[tuple[np.ndarray, int]]:
  """Batches of one size, the last filled up, and the images in each."""
  rest = iter(images)
  while batch := list(itertools.islice(rest, _BATCH_SIZE)):
    fill = [batch[0]] * (_BATCH_SIZE - len(batch))
    yield np.stack([*batch, *fill]), len(batch)


def _compile(
  artifact: artifact_lib.Artifact, layers: Sequence[architectures.Layer]
) -> _FindLargest:
  # Here, for where there is no JAX this file is imported all the same.
  import jax
  import jax.numpy as jnp

  from hq_jax.inference import jax_network

  names = list(architectures.find_activations(layers))
  variables = artifact_lib.to_variables(artifact)
  weights = jax_network.fold_norms(variables)

  @jax.jit
  def find_largest(weights, images):
    outputs = jax_network.compute_outputs(layers, weights, images)
    largest = [
      jnp.abs(outputs[name]).reshape(len(images), -1).max(axis=1)
      for name in names
    ]
    return jnp.stack(largest, axis=1)

  return lambda images: np.asarray(find_largest(weights, images))
