"""Quantized tensors of a state, for a file."""

from typing import Any

import chex
import optax

from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.transforms import _quantizer


def encode(
  opt_state: Any,
  params: chex.ArrayTree,
  quantizer: _quantizer.Quantizer,
  *,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> dict[str, qtensors.TernaryTensor | qtensors.CodebookTensor]:
  """The quantized kernels, for export.

  For `straight_through` around any quantizer that has an `encode`; of `hq`, see
  `finalize`. Before the first update they are those of the first latents.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> from hq_jax import baselines
  >>> from hq_jax.transforms import _straight_through
  >>> params = {'a': {'kernel': jnp.array([[0.5], [-1.5]])}}
  >>> quantizer = baselines.binary()
  >>> tx = _straight_through.straight_through(optax.sgd(0.0), quantizer)
  >>> updates, state = tx.update(params, tx.init(params), params)
  >>> found = encode(state, params, quantizer)
  >>> found['a/kernel'].codes.ravel(), found['a/kernel'].scale.ravel()
  (Array([ 1, -1], dtype=int8), Array([1.], dtype=float32))

  Args:
    opt_state: a state that holds one of `straight_through`, at any depth.
    params: the parameters.
    quantizer: the one it was made with.
    channel_axis: the one it was made with.
    layer_axes: the one it was made with.

  Returns:
    Quantized tensors by path: their values are the parameters' own after an
    update, to the last bit where these are float32.

  Raises:
    ValueError: where the state holds no latents, or the quantizer has no
      encode.
  """
  if quantizer.encode is None:
    raise ValueError(
      'quantizer has no encode, wanted one that has: of hq, see finalize'
    )
  latents = optax.tree.get(opt_state, 'latents')
  if latents is None:
    raise ValueError(
      'opt_state holds no latents, wanted the state of straight_through'
    )
  found = trees.flatten(latents)
  axes = trees.find_axes(
    params, lambda path, leaf: path in found, channel_axis, layer_axes
  )
  state = optax.tree.get(opt_state, 'quantizer_state')
  return _quantizer.flatten_quantized(quantizer.encode(latents, state, axes))
