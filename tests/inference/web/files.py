"""Files of any network with random weights, in every encoding."""

import numpy as np

from hq_jax import artifact
from hq_jax.artifact import encodings
from hq_jax.artifact import variables
from hq_jax.core import qtensors
from hq_jax.inference import architectures

_NUM_CLASSES = 7
# In turn, those of the kernels.
_ENCODINGS = ('t', 't2', 'c24', 'q2', 'f4', 't4')


def make(model, arguments, input_shape, preprocessing):
  """An artifact whose logits are of the size of one."""
  rng = np.random.default_rng(11)
  tensors, norms, shapes = {}, {}, {architectures.INPUT: input_shape}
  layers = architectures.make_layers(
    model, arguments, input_shape, _NUM_CLASSES
  )
  for number, layer in enumerate(layers):
    width, path = layer.shape[-1], f'params/{layer.name}'
    shapes[layer.name] = layer.shape
    if layer.op in ('conv', 'dense'):
      rows = shapes[layer.inputs[0]][-1] // layer.groups
      taps = (layer.size,) * 2 if layer.op == 'conv' else ()
      encoding = _ENCODINGS[number % len(_ENCODINGS)]
      tensors[f'{path}/kernel'] = _draw(rng, (*taps, rows, width), encoding)
    if layer.has_bias:
      tensors[f'{path}/bias'] = rng.normal(size=width).astype(np.float16)
    if layer.op == 'norm':
      before = next(x for x in layers if x.name == layer.inputs[0])
      kernel = variables.to_array(tensors[f'params/{before.name}/kernel'])
      axes = tuple(range(kernel.ndim - 1))
      spread = np.sqrt((kernel.astype(np.float64) ** 2).sum(axes) + 1e-3)
      scale = rng.choice([-1, 1], width) * rng.uniform(0.7, 1.4, width) / spread
      tensors[f'{path}/scale'] = scale.astype(np.float32)
      tensors[f'{path}/bias'] = rng.normal(0, 0.3, width).astype(np.float16)
      norms[layer.name] = 1e-5
  return artifact.Artifact(
    model=model,
    model_args=arguments,
    input_shape=input_shape,
    preprocessing=preprocessing,
    class_names=tuple(f'<b>cläss {i}</b>' for i in range(_NUM_CLASSES)),
    tensors=tensors,
    folded_norms=norms,
  )


def _draw(rng, shape, encoding):
  if encoding == 'f4':
    return rng.normal(size=shape).astype(np.float32)
  if encoding == 'q2':
    return encodings.quantize_int8(rng.normal(size=shape))
  if encoding == 'c24':
    indices = rng.integers(0, 9, shape).astype(np.uint8)
    scale = rng.uniform(0.5, 2, shape[-1]).astype(np.float32)
    codewords = rng.normal(size=(9, 1)).astype(np.float16)
    return qtensors.CodebookTensor(indices, codewords, scale)
  codes = rng.choice(3, shape, p=[0.15, 0.7, 0.15]).astype(np.int8) - 1
  if encoding == 't':
    return qtensors.TernaryTensor(codes.astype(np.int8))
  dtype = np.float16 if encoding == 't2' else np.float32
  scale = rng.uniform(0.5, 2, shape[-1]).astype(dtype)
  return qtensors.TernaryTensor(codes.astype(np.int8), scale)
