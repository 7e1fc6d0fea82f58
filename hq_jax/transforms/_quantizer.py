"""The protocol of quantizers, and the identity."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.core import trees


def _learn_nothing(grads, latents, state, axes):
  return state


def _stay(latents, params, state, axes):
  return latents


def _forget_nothing(state, are_replaced):
  return state


class Quantizer(NamedTuple):
  """Pure functions, in the manner of `optax.GradientTransformation`.

  Each takes masked trees, in which what is not selected is an
  `optax.MaskedNode`, and the `trees.Axes` of each kernel (see
  `trees.find_axes`).

  Attributes:
    init: from latents and axes to the quantizer's state.
    update: from latents, state, the parameters that the model sees and axes to
      the quantized tree, in the dtypes of the parameters, and the next state.
      Called once a step, after the latents moved.
    learn: from the gradient at the quantized weights, the latents that these
      were made of, state and axes to the next state: what a quantizer has to
      learn of its own. Called once a step, before the latents move. By default
      nothing is learnt.
    encode: from latents, state and axes to the tree of quantized tensors that a
      file holds (see `core.qtensors`), whose values are what the `update` that
      gave these latents and this state returned, exactly where the parameters
      are float32. None where there is another way to a file
      (`transforms.finalize`), or none.
    recall: from latents, state, the parameters and axes to what the last
      `update` gave, or `init` was given, in the dtypes of the parameters. By
      default what `encode` gives; without either, nobody notices that
      parameters were replaced.
    forget: from the state and a bool, whether any parameters were replaced, to
      a state that holds nothing of the old ones.
    reinit: from latents, the parameters, state and axes to other latents.
      Called once a step, first of all. By default they stay.
  """

  init: Callable[[chex.ArrayTree, chex.ArrayTree], Any]
  update: Callable[
    [chex.ArrayTree, Any, chex.ArrayTree, chex.ArrayTree],
    tuple[chex.ArrayTree, Any],
  ]
  learn: Callable[
    [chex.ArrayTree, chex.ArrayTree, Any, chex.ArrayTree], Any
  ] = _learn_nothing
  encode: (
    Callable[[chex.ArrayTree, Any, chex.ArrayTree], chex.ArrayTree] | None
  ) = None
  recall: (
    Callable[
      [chex.ArrayTree, Any, chex.ArrayTree, chex.ArrayTree], chex.ArrayTree
    ]
    | None
  ) = None
  forget: Callable[[Any, jax.Array], Any] = _forget_nothing
  reinit: Callable[
    [chex.ArrayTree, chex.ArrayTree, Any, chex.ArrayTree], chex.ArrayTree
  ] = _stay


def check_last_axes(latents: chex.ArrayTree, axes: chex.ArrayTree) -> None:
  """Refuses kernels whose output channels are not on the last axis."""
  found = trees.flatten(axes)
  for path, w in trees.flatten(latents).items():
    if found[path].kept != (w.ndim - 1,):
      raise ValueError(
        f'channel_axis and layer_axes of {path} are {found[path].channel} and'
        f' {found[path].layer}, wanted the last one, {w.ndim - 1}, and none:'
        ' this quantizer takes no other'
      )


def flatten_quantized(
  tree: chex.ArrayTree,
) -> dict[str, qtensors.TernaryTensor | qtensors.CodebookTensor]:
  """The quantized tensors in a tree, by path.

  >>> tree = {'a': {'kernel': qtensors.TernaryTensor(1), 'bias': 2}}
  >>> flatten_quantized(tree)
  {'a/kernel': TernaryTensor(codes=1, scale=None)}

  Args:
    tree: of `Quantizer.encode` or `transforms.finalize`.

  Returns:
    The ternary and the codebook tensors; what is neither is left out.
  """
  is_record = lambda node: isinstance(
    node, qtensors.TernaryTensor | qtensors.CodebookTensor
  )
  found = trees.flatten(tree, is_leaf=is_record)
  return {path: node for path, node in found.items() if is_record(node)}


def decode(
  tensor: qtensors.TernaryTensor | qtensors.CodebookTensor,
) -> jax.Array:
  """The float32 value of a quantized tensor."""
  if isinstance(tensor, qtensors.TernaryTensor):
    return ternary.dequantize(tensor)
  *lead, num_groups, num_channels = tensor.indices.shape
  words = jnp.moveaxis(tensor.codewords[tensor.indices], -1, -2)
  size = num_groups * tensor.codewords.shape[1]
  values = words.reshape(*lead, size, num_channels).astype(jnp.float32)
  if tensor.scale is None:
    return values
  return values * jnp.expand_dims(tensor.scale, range(values.ndim - 1))


def identity() -> Quantizer:
  """The quantizer that changes nothing: `q = w`.

  >>> import jax.numpy as jnp
  >>> w = {'kernel': jnp.ones((1, 2))}
  >>> identity().update(w, (), w, {'kernel': trees.Axes((1,))})
  ({'kernel': Array([[1., 1.]], dtype=float32)}, ())

  Returns:
    A `Quantizer` without state.
  """

  def recall_fn(latents, state, params, axes):
    return jax.tree.map(lambda w, p: w.astype(p.dtype), latents, params)

  def update_fn(latents, state, params, axes):
    return recall_fn(latents, state, params, axes), state

  return Quantizer(lambda latents, axes: (), update_fn, recall=recall_fn)
