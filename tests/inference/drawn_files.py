"""Files of all networks: drawn weights, made ternary, int8 or codewords."""

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax.core import qtensors
from hq_jax.core import trees
from tests.models import reference

NUM_CLASSES = 5


def make(name, arguments, shape):
  """An artifact with kernels of all kinds; most are ternary with 60% zeros."""
  model = models.build(name, num_classes=NUM_CLASSES, arguments=arguments)
  image = jax.ShapeDtypeStruct((1, *shape), np.float32)
  variables = jax.tree.map(np.asarray, reference.draw(model, image))
  params = variables['params']
  ternary, int8 = {}, {}
  paths = [
    path for path in trees.flatten(variables) if path.endswith('/kernel')
  ]
  leaves = trees.flatten(variables)
  for number, path in enumerate(paths):
    kernel = leaves[path]
    if 'head' in path:
      int8[path] = artifact_lib.quantize_int8(kernel)
    elif number == 1 and kernel.shape[-2] % 2 == 0:
      ternary[path] = _make_codebook(kernel)
    elif 'stem' not in path:
      ternary[path] = _make_ternary(kernel, _find_inputs(path, kernel.ndim))
  tensors, norms = artifact_lib.fold(
    variables,
    ternary,
    models.pair_norms(params),
    models.find_norms(params),
    int8=int8,
  )
  return artifact_lib.Artifact(
    name,
    arguments,
    shape,
    {'mean': [0.0], 'std': [1.0]},
    tuple('abcde'),
    tensors,
    norms,
  )


def _find_inputs(path, num_axes):
  """The axes that the product with a kernel sums over."""
  if 'blocks/' not in path:
    return tuple(range(num_axes - 1))
  # The first axis is that of the blocks.
  return (1, 2) if 'attention/out' in path else (1,)


def _make_ternary(kernel, axes):
  large = np.abs(kernel) > np.quantile(np.abs(kernel), 0.6)
  codes = (np.sign(kernel) * large).astype(np.int8)
  size = np.abs(kernel * large).sum(axes, keepdims=True)
  count = large.sum(axes, keepdims=True)
  scale = size / np.maximum(count, 1)
  return qtensors.TernaryTensor(codes, scale.astype(np.float32))


def _make_codebook(kernel):
  *sides, rows, columns = kernel.shape
  rng = np.random.default_rng(1)
  words = rng.normal(size=(16, 2)) / np.sqrt(kernel.size / columns)
  indices = rng.integers(0, 16, (*sides, rows // 2, columns), np.uint8)
  return qtensors.CodebookTensor(indices, words.astype(np.float16))


def apply_flax(artifact, images):
  """The logits of the network in Flax."""
  model = models.build(
    artifact.model, num_classes=NUM_CLASSES, arguments=artifact.model_args
  )
  variables = artifact_lib.to_variables(artifact)
  return np.asarray(jax.jit(model.apply)(variables, images))


def draw_images(artifact, number=3):
  """Normalized images that fit."""
  rng = np.random.default_rng(3)
  shape = number, *artifact.input_shape
  return rng.normal(size=shape).astype(np.float32)
