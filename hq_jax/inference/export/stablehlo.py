"""Programs of StableHLO that hold the packed weights of a file."""

from collections.abc import Callable

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.core import qtensors
from hq_jax.inference import jax_network
from hq_jax.inference import network
from hq_jax.runtime import backend

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def make_stablehlo(artifact: artifact_lib.Artifact) -> bytes:
  """What `jax.export.deserialize` reads: float32 images to logits.

  Ternary codes are in it as 2 bits, and are unpacked where it runs.
  """
  layers = network.read_layers(artifact)
  backend.start()
  makers = {
    path: _get_maker(tensor) for path, tensor in artifact.tensors.items()
  }

  @jax.jit
  def classify(images: jax.Array) -> jax.Array:
    leaves = {path: make() for path, make in makers.items()}
    weights = jax_network.make_weights(layers, leaves)
    return jax_network.apply(layers, weights, images)

  (batch,) = export.symbolic_shape('batch')
  shape = (batch, *artifact.input_shape)
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  program = export.export(classify, platforms=PLATFORMS)(images)
  return bytes(program.serialize())


def _get_maker(tensor: artifact_lib.Tensor) -> Callable[[], jax.Array]:
  """What makes a float32 array of a constant of fewer bytes."""
  if isinstance(tensor, qtensors.TernaryTensor):
    shape = tensor.codes.shape
    packed = pack(tensor.codes)
    return lambda: _scale(unpack(jnp.asarray(packed), shape), tensor.scale)
  if isinstance(tensor, qtensors.Int8Tensor):
    return lambda: _scale(jnp.asarray(tensor.codes), tensor.scale)
  if isinstance(tensor, qtensors.CodebookTensor):
    return lambda: _look_up(tensor)
  return lambda: jnp.asarray(tensor).astype(jnp.float32)


def pack(codes: np.ndarray) -> np.ndarray:
  """Four codes, each plus one, in a byte, the first in the lowest bits."""
  flat = codes.ravel() + np.int8(1)
  fours = np.pad(flat, (0, -flat.size % 4)).astype(np.uint8).reshape(-1, 4)
  places = np.array([0, 2, 4, 6], np.uint8)
  return np.bitwise_or.reduce(fours << places, axis=1)


def unpack(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The inverse of `pack`, in float32.

  No arithmetic in 8 bits: XLA's compiler for CPUs (jaxlib 0.10.2) gets the
  networks behind it wrong.
  """
  codes = [(packed >> np.uint8(2 * i)) & np.uint8(3) for i in range(4)]
  values = jnp.stack(codes, axis=-1).astype(jnp.float32) - 1
  return values.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _scale(codes: jax.Array, scale: np.ndarray | None) -> jax.Array:
  values = codes.astype(jnp.float32)
  return values if scale is None else values * np.float32(scale)


def _look_up(tensor: qtensors.CodebookTensor) -> jax.Array:
  words = np.float32(tensor.codewords)
  values = jnp.asarray(words)[jnp.asarray(tensor.indices)]
  shape = artifact_lib.shape_of(tensor)
  return _scale(jnp.moveaxis(values, -1, -2).reshape(shape), tensor.scale)
