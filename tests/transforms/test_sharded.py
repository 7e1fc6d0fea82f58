"""Kernels sharded over eight devices: nothing is gathered, nothing differs."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import schedules
from hq_jax.core import thresholds
from tests.transforms import steps

P = jax.sharding.PartitionSpec

SHAPES = {'conv': (3, 3, 32, 64), 'head': (128, 32)}
# By input, by output, and by both.
SHARDINGS = {
  'input': {'conv': P(None, None, ('d0', 'd1')), 'head': P(('d0', 'd1'))},
  'output': {'conv': P(None, None, None, ('d0', 'd1')), 'head': P(None, 'd0')},
  'both': {'conv': P(None, None, 'd0', 'd1'), 'head': P('d1', 'd0')},
}
# One of them by default: `.ci/run` takes the others too.
every_sharding = pytest.mark.parametrize(
  'how',
  [
    how if how == 'both' else pytest.param(how, marks=pytest.mark.slow)
    for how in SHARDINGS
  ],
)
SCOPES = {'layer': 0.7, 'tree': 0.7, 'channel': 0.7, '2:4': 0.5}
RAMP = schedules.sparsity_ramp(0.2, 0.5, ramp_steps=2)

# In the first step of each, everything happens: thresholds are found.
TRANSFORMS = {
  'tangent': lambda: optax.chain(transforms.tangent(), _sgd()),
  'project_to_sphere': lambda: optax.chain(
    _sgd(), transforms.project_to_sphere()
  ),
  'prune': lambda: optax.chain(_sgd(), transforms.prune(RAMP)),
  'reinit': lambda: optax.chain(_sgd(), transforms.reinit([0], 0.5, RAMP)),
  'straight_through': lambda: transforms.straight_through(
    _sgd(), transforms.ternary(0.7)
  ),
} | {
  f'hq_{scope}': lambda scope=scope, sparsity=sparsity: transforms.hq(
    _sgd(),
    transforms.Recipe(
      sparsity=sparsity, scope=scope, prune_steps=2, num_stages=1
    ),
  )
  for scope, sparsity in SCOPES.items()
}


def _sgd():
  return optax.sgd(0.1, momentum=0.9)


@pytest.fixture
def params(rng):
  return {
    name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32)}
    for name, shape in SHAPES.items()
  }


@pytest.fixture
def shard(make_mesh):
  """Puts a tree like `params` on eight devices."""
  mesh = make_mesh(4, 2)

  def put(tree, how):
    return {
      name: jax.tree.map(
        lambda leaf, name=name: jax.device_put(
          leaf, jax.sharding.NamedSharding(mesh, SHARDINGS[how][name])
        ),
        layer,
      )
      for name, layer in tree.items()
    }

  return put


def _sizes_of_collectives(program):
  """Kinds and numbers of elements of every collective of a program."""
  pattern = (
    r'= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|'
    r'reduce-scatter)(?:-start)?\('
  )
  for shapes, kind in re.findall(pattern, program):
    for dims in re.findall(r'\w+\[([\d,]*)\]', shapes):
      yield kind, math.prod(int(d) for d in dims.split(',') if d)


def test_collectives_are_found_in_a_program(params, shard):
  # That the test below can fail: a sum, and a kernel that is gathered.
  sharded = shard(params, 'input')
  gather = jax.jit(lambda tree: jnp.sort(tree['conv']['kernel'].ravel())[0])
  found = list(_sizes_of_collectives(gather.lower(sharded).compile().as_text()))
  assert max(size for _, size in found) >= math.prod(SHAPES['conv']) // 8
  add = jax.jit(lambda tree: jnp.sum(tree['head']['kernel']))
  found = list(_sizes_of_collectives(add.lower(sharded).compile().as_text()))
  assert found == [('all-reduce', 1)]


@every_sharding
@pytest.mark.parametrize(
  'name',
  [
    # The scopes share most of what they compile.
    name
    if name not in ('hq_tree', 'hq_channel')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in TRANSFORMS
  ],
)
def test_no_kernel_is_gathered_and_the_state_stays_where_it_is(
  name, how, params, shard
):
  tx = TRANSFORMS[name]()
  sharded = shard(params, how)

  state = jax.jit(tx.init)(sharded)
  compiled = steps.make_step(tx).lower(sharded, state, sharded).compile()
  most = max(shape[-1] for shape in SHAPES.values())
  for kind, size in _sizes_of_collectives(compiled.as_text()):
    # A number for each channel, of both kernels at once at the most.
    assert size <= 2 * most, (kind, size)
  moved, after = compiled(sharded, state, sharded)
  same = lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim)
  assert all(jax.tree.leaves(jax.tree.map(same, moved, sharded)))
  for field in ('trace', 'latents'):
    kept = optax.tree.get(after, field)
    if kept is not None:
      assert all(jax.tree.leaves(jax.tree.map(same, kept, sharded))), field


@every_sharding
@pytest.mark.parametrize(
  'scope',
  [
    scope
    if scope in ('layer', '2:4')
    else pytest.param(scope, marks=pytest.mark.slow)
    for scope in SCOPES
  ],
)
def test_thresholds_and_codes_are_the_same_bits(scope, how, params, shard):
  # The latents of the sharded run, on one device, give the same bits.
  recipe = transforms.Recipe(sparsity=SCOPES[scope], scope=scope)
  tx = transforms.hq(_sgd(), recipe)
  sharded = shard(params, how)
  step = jax.jit(tx.update)
  updates, state = step(sharded, jax.jit(tx.init)(sharded), sharded)
  got = optax.apply_updates(sharded, updates)
  latents = jax.tree.map(np.asarray, state.latents)
  wanted = jax.jit(
    lambda tree: thresholds.split(
      thresholds.get_thresholds(tree, SCOPES[scope], scope=scope)
    )
  )(latents)
  jax.tree.map(
    np.testing.assert_array_equal, state.quantizer_state.thresholds, wanted
  )
  # What the file will hold, on one device: the weights that were trained.
  on_one = jax.tree.map(np.asarray, (state, got))
  finalized = transforms.finalize(*on_one, recipe)
  zeros = 0
  for name, layer in finalized.items():
    codes, scale = layer['kernel']
    # The first step comes from dense parameters: one unit in the last place.
    np.testing.assert_allclose(
      codes * scale, on_one[1][name]['kernel'], rtol=2**-23
    )
    zeros += int((codes == 0).sum())
  size = sum(map(math.prod, SHAPES.values()))
  assert zeros == pytest.approx(SCOPES[scope] * size, abs=len(SHAPES) * 64)


@pytest.mark.slow
def test_the_first_thresholds_of_equal_weights_are_equal(params, shard):
  # Not on the sphere, nothing but the thresholds depends on a sum: the whole
  # run agrees to the last bit.
  recipe = transforms.Recipe(
    sparsity=0.7, refresh_steps=1, tangent=False, project=False
  )
  tx = transforms.hq(_sgd(), recipe)
  step = jax.jit(tx.update)
  found = []
  for tree in (params, shard(params, 'both')):
    state = jax.jit(tx.init)(tree)
    for _ in range(3):
      _, state = step(tree, state, tree)
    found.append(jax.tree.map(np.asarray, state.quantizer_state.thresholds))
  jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize('name', [*TRANSFORMS, 'hq_adamw'])
def test_the_state_grows_by_one_copy_and_a_few_numbers(name):
  # More weights in a channel than a kernel of a test has otherwise.
  params = {'kernel': jax.ShapeDtypeStruct((512, 64), jnp.float32)}
  num_bytes = lambda tree: sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  if name == 'hq_adamw':
    plain = optax.adamw(0.1)
    tx = transforms.hq(plain, transforms.Recipe(prune_steps=8))
  else:
    plain, tx = _sgd(), TRANSFORMS[name]()
  growth = num_bytes(jax.eval_shape(tx.init, params)) - num_bytes(
    jax.eval_shape(plain.init, params)
  )
  has_latents = name.startswith(('hq', 'straight'))
  copy = 4 * 512 * 64 if has_latents else 0
  # Radii, norms, scales, whether it has a sphere; by channel, thresholds of
  # two numbers too.
  num_channel_wise = 6 if name == 'hq_channel' else 4
  assert growth <= copy + num_channel_wise * 4 * 64 + 64
