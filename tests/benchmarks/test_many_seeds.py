import jax
import numpy as np
import optax

from benchmarks import many_seeds


def test_trainings_learn_and_are_the_same_under_vmap():
  train = many_seeds.make_training(optax.adam(1e-2), (4, 8, 2), 40)
  keys = jax.random.split(jax.random.key(0), 2)
  params, losses = jax.jit(jax.vmap(train))(keys)
  assert losses.shape == (2, 40) and (losses[:, -1] < losses[:, 0]).all()
  alone, _ = jax.jit(train)(keys[1])
  for name, layer in alone.items():
    np.testing.assert_allclose(
      params[name]['kernel'][1], layer['kernel'], rtol=1e-3, atol=1e-5
    )
