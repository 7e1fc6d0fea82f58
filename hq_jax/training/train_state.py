"""The state of training, and how it begins."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import chex
from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import optax

from hq_jax.runtime import sharding


class TrainState(struct.PyTreeNode):
  """Everything that a training step reads and writes.

  Attributes:
    step: int32, the steps of this stage so far.
    params: what the model sees: dense, pruned or ternary.
    batch_stats: the running statistics of the batch norms.
    opt_state: of the optax pipeline; with `transforms.hq`, it has the latents.
  """

  step: jax.Array
  params: chex.ArrayTree
  batch_stats: chex.ArrayTree
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def _begin(
  params: chex.ArrayTree,
  batch_stats: chex.ArrayTree,
  tx: optax.GradientTransformation,
) -> TrainState:
  step = jnp.zeros([], jnp.int32)
  return TrainState(step, params, batch_stats, tx.init(params))


def make_init(
  model: nn.Module,
  tx: optax.GradientTransformation,
  key: chex.PRNGKey,
  input_shape: tuple[int, ...],
  mesh: jax.sharding.Mesh,
  pretrained: Mapping[str, Any] | None = None,
) -> functools.partial[TrainState]:
  """What initializes a model and its optimizer, already in their places."""
  given = sharding.to_devices(pretrained or {}, mesh)
  return functools.partial(jit_init(model, tx, input_shape, mesh), key, given)


def jit_init(
  model: nn.Module,
  tx: optax.GradientTransformation,
  input_shape: tuple[int, ...],
  mesh: jax.sharding.Mesh,
) -> jax.stages.Wrapped:
  """The compiled function from a key and pretrained variables to a state."""

  def build(key, pretrained):
    variables = model.init(key, jnp.zeros((1, *input_shape)), train=False)
    variables = _overlay(variables, pretrained)
    return _begin(variables['params'], variables.get('batch_stats', {}), tx)

  return _jit_in_place(build, mesh)


def _jit_in_place(
  build: Callable[..., TrainState], mesh: jax.sharding.Mesh
) -> jax.stages.Wrapped:
  """Compiles a function that makes a state, with each array in its place."""

  def in_place(*args):
    state = build(*args)
    return jax.lax.with_sharding_constraint(
      state, sharding.state_sharded(state, mesh)
    )

  return sharding.jit(in_place, mesh)


def _overlay(below: Any, above: Any) -> Any:
  """The leaves of `above`, and those of `below` where it has none."""
  if not isinstance(below, Mapping):
    return above
  return {
    name: _overlay(value, above[name]) if name in above else value
    for name, value in below.items()
  }


def make_restart(
  state: TrainState,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> functools.partial[TrainState]:
  """What begins another stage with the weights of the last."""
  return functools.partial(
    jit_restart(tx, mesh), state.params, state.batch_stats
  )


def jit_restart(
  tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> jax.stages.Wrapped:
  """The compiled function from parameters and statistics to a state."""
  build = lambda params, batch_stats: _begin(params, batch_stats, tx)
  return _jit_in_place(build, mesh)
