"""Diagnostics of training: distances, zeros, flips, dead channels, bias.

Pure functions of trees, for use inside `jit`; each gives one float32 number for
each kernel, by path. Those that a run logs are compiled by `make_diagnose`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from hq_jax import transforms
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.runtime import sharding
from hq_jax.training import train_state

# Of trees alone; `make_diagnose` is for the loop.
__all__ = ['flip_rate', 'kernel_diagnostics', 'ste_bias']


def make_diagnose(
  model: nn.Module,
  mesh: jax.sharding.Mesh,
  watched: Mapping[str, Any],
  batch: Mapping[str, Any] | None,
) -> Callable[[train_state.TrainState], dict[str, dict[str, jax.Array]]]:
  """Compiles what is logged of a state's kernels; the bias, given a batch."""
  select = watched['select']
  layer_axes = watched.get('layer_axes', ())

  def diagnose(state, batch):
    latents = _get_latents(state)
    found = kernel_diagnostics(state.params, latents, **watched)
    if batch is None:
      return found

    def get_loss(params):
      logits, _ = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['label']
      )
      return jnp.mean(losses)

    grads = jax.grad(get_loss)
    bias = ste_bias(
      grads(state.params), grads(latents), select=select, layer_axes=layer_axes
    )
    return found | {'ste_bias': bias}

  if batch is not None:
    batch = sharding.to_global(batch, mesh)
  compiled = sharding.jit(
    diagnose, mesh, out_shardings=sharding.replicated(mesh)
  )
  return lambda state: compiled(state, batch)


def _get_latents(state: train_state.TrainState) -> Any:
  """The latent weights; in a stage that has none, the parameters."""
  if optax.tree.get(state.opt_state, 'latents') is None:
    return state.params
  return transforms.latents(state.opt_state, state.params)


def kernel_diagnostics(
  params: chex.ArrayTree,
  latents: chex.ArrayTree,
  *,
  sparsity: float | Mapping[str, float] | None = None,
  scope: str = 'layer',
  unit_norm: bool = True,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> dict[str, dict[str, jax.Array]]:
  """How far each kernel is from its ternary point, and how sparse it is.

  `cosine_distance` is the mean over channels of `1 - cos(w_j, q_j)` between the
  latents and the parameters that stand for them: in a ternary phase, their
  ternary point. With `sparsity` given it is that of the latents and their codes
  *at that sparsity*, comparable over a whole training, at the cost of finding
  the thresholds. `sparsity` is the fraction of exact zeros in the parameters,
  and `dead_channels` the fraction of output channels in which all are zero.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.array([[1.0], [-1.0], [0.0], [0.0]])}
  >>> found = kernel_diagnostics(params, params, sparsity=0.5)
  >>> float(found['cosine_distance']['kernel']) < 1e-6
  True
  >>> float(found['sparsity']['kernel'])
  0.5

  Args:
    params: the parameters that the model sees.
    latents: a tree of the same structure, with the latent kernels.
    sparsity: the final sparsity, in [0, 1), or one by path; None to compare
      with the parameters as they are.
    scope: which weights compete; see `thresholds`.
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.
    select: which leaves are kernels.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked in them; see
      `trees.find_axes`. Each has codes, and channels, of its own.

  Returns:
    Three dictionaries from the kernel's path to a float32 scalar.

  Raises:
    ValueError: where `select` matches nothing.
  """
  axes = trees.find_axes(params, select, channel_axis, layer_axes)
  kernels, found = trees.mask(params, axes), trees.mask(latents, axes)
  targets = kernels
  if sparsity is not None:
    ranked = thresholds.get_thresholds(
      found, sparsity, axes=axes, scope=scope, unit_norm=unit_norm
    )
    targets = jax.tree.map(
      lambda w, axes, threshold: ternary.get_codes_at(
        w, threshold, axes=axes, scope=scope
      ),
      found,
      axes,
      ranked,
    )
  distances = jax.tree.map(
    lambda w, q, axes: jnp.mean(sphere.cosine_distance(w, q, axes.kept)),
    found,
    targets,
    axes,
  )
  return {
    'cosine_distance': trees.flatten(distances),
    'sparsity': trees.flatten(
      jax.tree.map(lambda p: jnp.mean(p == 0, dtype=jnp.float32), kernels)
    ),
    'dead_channels': trees.flatten(
      jax.tree.map(
        lambda p, axes: jnp.mean(
          sphere.sum_by_channel(p != 0, axes.kept) == 0, dtype=jnp.float32
        ),
        kernels,
        axes,
      )
    ),
  }


def flip_rate(
  before: chex.ArrayTree,
  after: chex.ArrayTree,
  *,
  select: trees.Selector = trees.kernels,
) -> dict[str, jax.Array]:
  """The fraction of codes that a step changed.

  `mean_i [sign(p_i) != sign(p'_i)]`, where the sign of a ternary weight is its
  code.

  >>> import jax.numpy as jnp
  >>> before = {'kernel': jnp.array([[1.0], [0.0], [-1.0], [0.0]])}
  >>> after = {'kernel': jnp.array([[2.0], [0.0], [2.0], [-2.0]])}
  >>> float(flip_rate(before, after)['kernel'])
  0.5

  Args:
    before: the parameters before the step.
    after: the parameters after it.
    select: which leaves are kernels.

  Returns:
    A float32 scalar by path.

  Raises:
    ValueError: where `select` matches nothing.
  """
  differ = lambda a, b, axes: jnp.mean(
    jnp.sign(a) != jnp.sign(b), dtype=jnp.float32
  )
  return _compare(differ, before, after, trees.find_axes(before, select))


def ste_bias(
  grads: chex.ArrayTree,
  latent_grads: chex.ArrayTree,
  *,
  select: trees.Selector = trees.kernels,
  layer_axes: trees.LayerAxes = (),
) -> dict[str, jax.Array]:
  """How far the straight-through gradient points from the true one.

  `1 - cos(grad L(q(w)), grad L(w))`, over all weights of a kernel, on the same
  batch: between 0 and 2, and 1 where either gradient is zero. Of stacked layers
  it is the mean.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> loss = lambda p: jnp.sum(p['kernel'] ** 3)
  >>> latents = {'kernel': jnp.array([[3.0], [4.0]])}
  >>> params = {'kernel': jnp.array([[0.0], [5.0]])}
  >>> found = ste_bias(jax.grad(loss)(params), jax.grad(loss)(latents))
  >>> round(float(found['kernel']), 4)
  0.1284

  Args:
    grads: taken at the parameters, as an optimizer step takes them.
    latent_grads: taken at `transforms.latents(opt_state, params)`.
    select: which leaves are kernels.
    layer_axes: along which axes layers are stacked in them; see
      `trees.find_axes`.

  Returns:
    A float32 scalar by path.

  Raises:
    ValueError: where `select` matches nothing.
  """

  def distance(a, b, axes):
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    summed = tuple(axis for axis in range(a.ndim) if axis not in axes.layer)
    dot = lambda x, y: jnp.sum(x * y, summed, keepdims=True)
    # Scaled first: gradients may be so small that their squares are zero.
    a = sphere.divide(a, jnp.max(jnp.abs(a), summed, keepdims=True))
    b = sphere.divide(b, jnp.max(jnp.abs(b), summed, keepdims=True))
    cosine = sphere.divide(dot(a, b), jnp.sqrt(dot(a, a) * dot(b, b)))
    return jnp.mean(jnp.clip(1.0 - cosine, 0.0, 2.0))  # A cosine is rounded.

  axes = trees.find_axes(grads, select, layer_axes=layer_axes)
  return _compare(distance, grads, latent_grads, axes)


def _compare(measure, one, other, axes):
  """A number for each kernel of two trees, by path."""
  return trees.flatten(
    jax.tree.map(measure, trees.mask(one, axes), trees.mask(other, axes), axes)
  )
