"""The table of all transformations, each around an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from hq_jax.core import schedules

NUM_STEPS = 6
RAMP = schedules.sparsity_ramp(0.2, 0.6, begin_step=1, ramp_steps=2)


def _before(make, *args, **options):
  return lambda inner, **kw: optax.chain(make(*args, **options, **kw), inner)


def _behind(make, *args, **options):
  return lambda inner, **kw: optax.chain(inner, make(*args, **options, **kw))


def _prune(**options):
  return _behind(
    transforms.prune,
    RAMP,
    begin_step=1,
    end_step=4,
    refresh_steps=2,
    **options,
  )


def _reinit(**options):
  return _behind(transforms.reinit, (1, 3), 0.5, lambda step: 0.5, **options)


def _around(quantizer):
  return lambda inner, **kw: transforms.straight_through(inner, quantizer, **kw)


def _hq(**options):
  recipe = transforms.Recipe(
    **{'sparsity': 0.5, 'num_stages': 2, 'refresh_steps': 2} | options
  )
  return lambda inner, **kw: transforms.hq(inner, recipe, **kw)


# With stages that change within six steps.
TRANSFORMS = {
  'tangent': _before(transforms.tangent),
  'project_to_sphere': _behind(transforms.project_to_sphere),
  'prune': _prune(),
  'reinit': _reinit(),
  'straight_through': _around(
    transforms.ternary(0.5, begin_step=2, refresh_steps=2)
  ),
  # It has a state that no other way has.
  'hq': _hq(prune_steps=2, prune_gradients='masked'),
}
# What else there is of them, for slow tests.
MORE = {
  'prune_channel': _prune(scope='channel'),
  'prune_tree': _prune(scope='tree', unit_norm=False),
  'reinit_channel': _reinit(scope='channel'),
  'identity': _around(transforms.identity()),
  'binary': _around(baselines.binary()),
  'twn': _around(baselines.twn()),
  'ttq': _around(baselines.ttq()),
  'parq': _around(baselines.parq(3)),
  'uniform': _around(baselines.uniform(3)),
  'vector': _around(baselines.vector(num_codewords=4)),
  'hq_at_once': _hq(),
  'hq_dense': _hq(begin_step=10**6),
  'hq_ramp': _hq(begin_step=1, prune_steps=3),
  'hq_channel': _hq(prune_steps=2, scope='channel'),
  'hq_tree': _hq(prune_steps=2, scope='tree'),
  'hq_2:4': _hq(prune_steps=2, scope='2:4'),
  'hq_without_sphere': _hq(prune_steps=2, tangent=False, project=False),
}
# These come behind the optimizer, and see what it makes.
BEHIND = (
  'project_to_sphere',
  'prune',
  'prune_channel',
  'prune_tree',
  'reinit',
  'reinit_channel',
)
# These know no other channels than those on the last axis.
LAST_AXIS_ONLY = ('binary', 'parq', 'ttq', 'twn', 'uniform', 'vector')

FIELDS = {
  'tangent': ['on_sphere'],
  'project_to_sphere': ['radii'],
  'prune': ['holds_zeros', 'prune_count'],
  'reinit': ['reinit_count'],
  'straight_through': [
    'density_scale',
    'latents',
    'made_count',
    'replaced_count',
    'scales',
    'skipped_count',
    'ternary_count',
    'thresholds',
  ],
  'hq': [
    'density_scale',
    'holds_zeros',
    'latents',
    'made_count',
    'on_sphere',
    'prune_count',
    'quantizer_state',
    'radii',
    'reinit_count',
    'replaced_count',
    'scales',
    'skipped_count',
    'ternary_count',
    'thresholds',
  ],
}

every_transform = pytest.mark.parametrize('name', TRANSFORMS)
every_variant = pytest.mark.parametrize(
  'name',
  [*TRANSFORMS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)],
)


def make(name, inner, **options):
  """The transformation of that name around an optimizer."""
  return (TRANSFORMS | MORE)[name](inner, **options)


def sgd(learning_rate=0.1):
  """An optimizer with a state that has the shapes of the parameters."""
  return optax.sgd(learning_rate, momentum=0.9)


def make_params(dtype=jnp.float32, shape=(16, 8)):
  """A kernel and a bias."""
  rng = np.random.default_rng(3)
  return {
    'bias': jnp.asarray(rng.normal(size=shape[-1:]), dtype),
    'kernel': jnp.asarray(rng.normal(size=shape), dtype),
  }


def make_gradients(params, num_steps=NUM_STEPS):
  """The gradients of every step, stacked."""
  rng = np.random.default_rng(4)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=(num_steps, *p.shape)), p.dtype),
    params,
  )


def at(gradients, step):
  """The gradients of one step."""
  return jax.tree.map(lambda g: g[step], gradients)


def make_step(tx, **extra_args):
  """The plain `step(params, state, grads) -> (params, state)`."""

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params, **extra_args)
    return optax.apply_updates(params, updates), state

  return step


def run(tx, params, gradients, jit=jax.jit, **extra_args):
  """The parameters after each step, and the last state."""
  step = jit(make_step(tx, **extra_args))
  state, found = tx.init(params), []
  for t in range(len(jax.tree.leaves(gradients)[0])):
    params, state = step(params, state, at(gradients, t))
    found.append(params)
  return found, state


def scan(tx, params, gradients, **extra_args):
  """The same in a scan: structure, shapes and types of the state stay."""
  step = make_step(tx, **extra_args)

  def body(carry, grads):
    carry = step(*carry, grads)
    return carry, carry[0]

  carry = params, tx.init(params)
  (_, state), found = jax.jit(
    lambda carry: jax.lax.scan(body, carry, gradients)
  )(carry)
  return found, state


def assert_close(got, wanted, rtol=1e-5, atol=1e-6):
  """That two trees are the same but for rounding."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    got,
    wanted,
  )
