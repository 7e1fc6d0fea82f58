"""The straight-through estimator as a wrapper of any optax pipeline."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import branches
from hq_jax.core import trees
from hq_jax.transforms import _kernels
from hq_jax.transforms import _policies
from hq_jax.transforms import _quantizer


class StraightThroughState(NamedTuple):
  """State of `straight_through`."""

  latents: chex.ArrayTree  # selected leaves in float32, the others masked
  made_count: jax.Array  # shape=(), dtype=int32: updates so far
  skipped_count: jax.Array  # shape=(), dtype=int32: those not finite
  replaced_count: jax.Array  # shape=(), dtype=int32: with replaced parameters
  quantizer_state: Any
  latent_opt_state: Any  # of the inner transformation


def straight_through(
  inner: optax.GradientTransformation,
  quantizer: _quantizer.Quantizer,
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
  non_finite: str = 'skip',
  replaced: str = 'follow',
) -> optax.GradientTransformationExtraArgs:
  """Trains latent weights with gradients taken at the quantized ones.

  Forward: the parameters that the model sees are `p = q(w)`. Backward: the
  gradient `g = dL/dp` is applied to the latents as if `q` were the identity:
  `w' = w + inner(g; w)`, and the update is `q(w') - p`, so that
  `optax.apply_updates` gives `q(w')`. Leaves that are not selected pass
  through `inner` as usual. `inner` is given the latents as its `params`, so
  weight decay and the like act on them; not where it projects them, see
  `project_to_sphere`. The update has the dtypes of the
  parameters. What the quantizer learns of its own, it learns from the same `g`,
  before the latents move.

  Gradients of which any is NaN or infinite, selected or not, are never applied:
  parameters and state stay as they are, but for `skipped_count`. Nor are
  updates of `inner` that are NaN or infinite where gradients were not; the
  state of `inner` is its next one then.

  Parameters that are not those that the last update led to (pretrained ones
  put into a train state, an average, a checkpoint's) are noticed, kernel by
  kernel: their largest difference is more than twice their type's precision
  times the largest of them. The kernel's latents start again from them, and
  `replaced_count` says how often that happened.

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
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.
    non_finite: what else happens then: nothing ('skip'), or the program stops
      with an error that names the leaves ('raise').
    replaced: what happens where parameters were replaced: latents follow them
      ('follow'), the program stops with an error that names them ('raise'), or
      nothing: the latents go on, and lead the parameters back to themselves
      ('ignore').

  Returns:
    A transformation whose `update` needs `params`. Its state holds one
    float32 copy of the selected leaves, besides the states of the quantizer
    and of `inner`.

  Raises:
    ValueError: where `select` matches nothing or a leaf that cannot be
      quantized, `non_finite` or `replaced` is unknown, `params` is missing, or
      a gradient, or an update of `inner`, has not the shape of its parameter.

  Note: from ternary parameters a step ends exactly at `q(w')`; from dense
    ones, a weight whose sign changes in that very step may end one unit in the
    last place off.
  """
  inner = optax.with_extra_args_support(inner)
  _policies.check('non_finite', non_finite, _policies.NON_FINITE)
  _policies.check('replaced', replaced, _policies.REPLACED)
  find_axes = functools.partial(
    trees.find_axes,
    selector=select,
    channel_axis=channel_axis,
    layer_axes=layer_axes,
  )

  def start(axes, kernels):
    # A copy: latents that shared their buffer with the parameters could not
    # be donated together with them.
    latents = jax.tree.map(
      lambda p: jnp.array(p, dtype=jnp.float32, copy=True), kernels
    )
    return latents, quantizer.init(latents, axes)

  def init_fn(params):
    axes = find_axes(params)
    if trees.is_placeholder(params):
      # What a quantizer makes of parameters has not their shapes.
      latents = params
      quantizer_state = jax.tree.map(
        lambda node: np.int32(0) if trees.is_placeholder(node) else node,
        quantizer.init(params, axes),
        is_leaf=trees.is_placeholder,
      )
    else:
      latents, quantizer_state = start(axes, trees.mask(params, axes))
    state = StraightThroughState(
      latents=latents,
      made_count=jnp.zeros([], jnp.int32),
      skipped_count=jnp.zeros([], jnp.int32),
      replaced_count=jnp.zeros([], jnp.int32),
      quantizer_state=quantizer_state,
      latent_opt_state=inner.init(trees.merge(latents, params)),
    )
    # Whether a step is skipped varies as any of the gradients does.
    return branches.vary_as_any(state, params)

  @trees.jit_with_axes
  def begin(axes, gradients, state, kernels):
    """What comes before the inner transformation."""
    new, are_finite = state, jnp.ones([], bool)
    if replaced != 'ignore':
      # Nor are parameters followed that are NaN or infinite.
      new, are_finite = _follow(quantizer, state, kernels, axes, replaced)
    finite = _policies.check_finite(gradients, non_finite, are_finite)
    latents = quantizer.reinit(new.latents, kernels, new.quantizer_state, axes)
    quantizer_state = quantizer.learn(
      trees.mask(gradients, axes), latents, new.quantizer_state, axes
    )
    begun = new._replace(latents=latents, quantizer_state=quantizer_state)
    return finite, branches.choose(finite, begun, state)

  @trees.jit_with_axes
  def finish(axes, finite, moves, state, inner_states, kernels):
    """What comes after it."""
    # What gradients alone decide is known before: a state changes in its place.
    inner_state = branches.choose(finite, *inner_states)
    finite = _policies.check_finite(moves, non_finite, finite)
    latents = jax.tree.map(
      lambda w, u: w + u.astype(jnp.float32),
      state.latents,
      trees.mask(moves, axes),
    )
    latents = branches.choose(finite, latents, state.latents)
    quantized, quantizer_state = quantizer.update(
      latents, state.quantizer_state, kernels, axes
    )
    moves = trees.map_selected(
      lambda _, u, q, p: _difference(q, p), axes, moves, quantized, kernels
    )
    new = state._replace(
      latents=(),
      quantizer_state=quantizer_state,
      made_count=state.made_count + 1,
    )
    skipped = state._replace(latents=(), skipped_count=state.skipped_count + 1)
    stay = jax.tree.map(jnp.zeros_like, moves)
    moves, new = branches.choose(finite, (moves, new), (stay, skipped))
    return moves, new._replace(latents=latents, latent_opt_state=inner_state)

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'params is None, wanted the parameters: call'
        ' tx.update(grads, state, params) with straight_through'
      )
    _kernels.check_shapes(updates, params, 'straight_through')
    axes = find_axes(params)
    kernels = trees.mask(params, axes)
    # The inner state is made from the latents, and has their type.
    updates = trees.map_selected(
      lambda _, g: g.astype(jnp.float32), axes, updates
    )
    inner_state = state.latent_opt_state
    old = state._replace(latent_opt_state=())
    finite, begun = begin(axes, updates, old, kernels)
    moves, new_inner_state = inner.update(
      updates, inner_state, trees.merge(begun.latents, params), **extra_args
    )
    _kernels.check_shapes(moves, params, 'straight_through')
    inner_states = new_inner_state, inner_state
    return finish(axes, finite, moves, begun, inner_states, kernels)

  return optax.GradientTransformationExtraArgs(
    _kernels.init_from(init_fn), update_fn
  )


def _follow(
  quantizer: _quantizer.Quantizer,
  state: StraightThroughState,
  params: chex.ArrayTree,
  axes: chex.ArrayTree,
  policy: str,
) -> tuple[StraightThroughState, jax.Array]:
  """The state, with latents of what was replaced; whether that is finite."""
  made = _recall(quantizer, state, params, axes)
  if made is None:
    return state, jnp.ones([], bool)
  differences = jax.tree.map(lambda p, q: jnp.max(jnp.abs(p - q)), params, made)
  are_new = jax.tree.map(_is_replaced, params, differences)
  any_new = _policies.report_replaced(are_new, policy)
  latents = jax.tree.map(
    lambda is_new, p, w: branches.choose(is_new, p.astype(jnp.float32), w),
    are_new,
    params,
    state.latents,
  )
  new = state._replace(
    latents=latents,
    quantizer_state=quantizer.forget(state.quantizer_state, any_new),
    replaced_count=state.replaced_count + any_new,
  )
  return new, jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(differences))))


def _recall(
  quantizer: _quantizer.Quantizer,
  state: StraightThroughState,
  params: chex.ArrayTree,
  axes: chex.ArrayTree,
) -> chex.ArrayTree | None:
  """What the last update led to; None where the quantizer cannot say."""
  latents, quantizer_state = state.latents, state.quantizer_state
  if quantizer.recall is not None:
    return quantizer.recall(latents, quantizer_state, params, axes)
  if quantizer.encode is None:
    return None
  tensors = quantizer.encode(latents, quantizer_state, axes)
  was_quantized = state.made_count > 0
  return jax.tree.map(
    lambda w, p, tensor: branches.choose(
      was_quantized, _quantizer.decode(tensor), w
    ).astype(p.dtype),
    latents,
    params,
    tensors,
  )


def _is_replaced(p: jax.Array, difference: jax.Array) -> jax.Array:
  """Whether it is larger than the rounding of `p + (made - p)`."""
  most = 2 * jnp.finfo(p.dtype).eps * jnp.max(jnp.abs(p))
  # By what it is not: a NaN is a difference.
  return ~(difference <= most)


def _difference(q: jax.Array, p: jax.Array) -> jax.Array:
  # In float32: exact for numbers of lower precision, whose own is rounded.
  wide = jnp.promote_types(p.dtype, jnp.float32)
  return (q.astype(wide) - p.astype(wide)).astype(p.dtype)
