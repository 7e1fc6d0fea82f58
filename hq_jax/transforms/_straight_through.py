"""The straight-through estimator as a wrapper of any optax pipeline."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import trees
from hq_jax.transforms import _finite
from hq_jax.transforms import _quantizer
from hq_jax.transforms import _updates


class StraightThroughState(NamedTuple):
  """State of `straight_through`."""

  latents: chex.ArrayTree  # selected leaves in float32, the others masked
  skipped_count: jax.Array  # shape=(), dtype=int32: updates not finite so far
  quantizer_state: Any
  latent_opt_state: Any  # of the inner transformation


def straight_through(
  inner: optax.GradientTransformation,
  quantizer: _quantizer.Quantizer,
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  non_finite: str = 'skip',
) -> optax.GradientTransformationExtraArgs:
  """Trains latent weights with gradients taken at the quantized ones.

  Forward: the parameters that the model sees are `p = q(w)`. Backward: the
  gradient `g = dL/dp` is applied to the latents as if `q` were the identity:
  `w' = w + inner(g; w)`, and the update is `q(w') - p`, so that
  `optax.apply_updates` gives `q(w')`. Leaves that are not selected pass
  through `inner` as usual. `inner` is given the latents as its `params`, so
  weight decay and the like act on them. The update has the dtypes of the
  parameters. What the quantizer learns of its own, it learns from the same `g`,
  before the latents move.

  Gradients of which any is NaN or infinite, selected or not, are never applied:
  parameters and state stay as they are, but for `skipped_count`.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> from hq_jax import transforms
  >>> params = {'kernel': jnp.array([[0.9], [0.1]])}
  >>> tx = straight_through(optax.sgd(0.1), transforms.ternary(0.5))
  >>> updates, state = tx.update(params, tx.init(params), params)
  >>> (optax.apply_updates(params, updates)['kernel'] != 0).ravel()
  Array([ True, False], dtype=bool)

  Args:
    inner: any optax transformation that ends in updates to be added.
    quantizer: from latents to quantized weights.
    select: which leaves have latents; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.
    non_finite: what else happens then: nothing ('skip'), or the program stops
      with an error that names the leaves ('raise').

  Returns:
    A transformation whose `update` needs `params`. Its state holds one
    float32 copy of the selected leaves, besides the states of the quantizer
    and of `inner`.

  Raises:
    ValueError: where `select` matches nothing or a leaf that cannot be
      quantized, `non_finite` is unknown, `params` is missing, or an update has
      not the shape of its parameter.

  Note: `params` are read, not only their latents: a step whose parameters
    were changed by someone else ends at `q(w')` all the same. From ternary
    parameters it does so exactly; from dense ones, a weight whose sign
    changes in that very step may end one unit in the last place off.
  """
  inner = optax.with_extra_args_support(inner)

  _finite.check_policy(non_finite)

  def init_fn(params):
    axes = trees.find_axes(params, select, channel_axis)
    # A copy: latents that shared their buffer with the parameters could not
    # be donated together with them.
    latents = jax.tree.map(
      lambda p: jnp.array(p, dtype=jnp.float32, copy=True),
      trees.mask(params, axes),
    )
    return StraightThroughState(
      latents=latents,
      skipped_count=jnp.zeros([], jnp.int32),
      quantizer_state=quantizer.init(latents, axes),
      latent_opt_state=inner.init(trees.merge(latents, params)),
    )

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'params is None, wanted the parameters: call'
        ' tx.update(grads, state, params) with straight_through'
      )
    axes = trees.find_axes(params, select, channel_axis)
    # The inner state is made from the latents, and has their type.
    updates = trees.map_selected(
      lambda axis, g: g.astype(jnp.float32), axes, updates
    )

    def apply():
      quantizer_state = quantizer.learn(
        trees.mask(updates, axes), state.latents, state.quantizer_state, axes
      )
      moves, opt_state = inner.update(
        updates,
        state.latent_opt_state,
        trees.merge(state.latents, params),
        **extra_args,
      )
      _updates.check_shapes(moves, params, axes)
      latents = jax.tree.map(
        lambda w, u: w + u.astype(jnp.float32),
        state.latents,
        trees.mask(moves, axes),
      )
      quantized, quantizer_state = quantizer.update(
        latents, quantizer_state, trees.mask(params, axes), axes
      )
      moves = trees.map_selected(
        lambda axis, u, q, p: _difference(q, p), axes, moves, quantized, params
      )
      return moves, state._replace(
        latents=latents,
        quantizer_state=quantizer_state,
        latent_opt_state=opt_state,
      )

    return _finite.apply_if(
      _finite.check(updates, non_finite),
      apply,
      state._replace(skipped_count=state.skipped_count + 1),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _difference(q: jax.Array, p: jax.Array) -> jax.Array:
  # In float32: exact for numbers of lower precision, whose own is rounded.
  wide = jnp.promote_types(p.dtype, jnp.float32)
  return (q.astype(wide) - p.astype(wide)).astype(p.dtype)
