"""Quantized tensors of a state: their values are the parameters, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from tests import compiling
from tests import quantized as quantized_lib
from tests.transforms import steps

RIVALS = {
  'twn': baselines.twn(),
  'binary': baselines.binary(),
  'uniform': baselines.uniform(3, optax.adam(0.05)),
  'vector': baselines.vector(group_size=2, num_codewords=8, refresh_steps=2),
}
SELECTED = {'conv/kernel', 'head/kernel'}


def _params(rng):
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'conv': {'kernel': draw(2, 2, 4, 5)},
    'head': {'kernel': draw(8, 3), 'bias': draw(3)},
  }


def _assert_values_are(tensors, params):
  assert tensors.keys() == SELECTED
  for path, tensor in tensors.items():
    module, leaf = path.split('/')
    np.testing.assert_array_equal(
      quantized_lib.get_value(tensor), params[module][leaf], err_msg=path
    )


@pytest.mark.parametrize(
  'name',
  [
    'binary',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ('twn', 'uniform', 'vector')
    ),
  ],
)
def test_values_are_the_parameters_after_each_update(rng, name):
  quantizer = RIVALS[name]
  plain = transforms.straight_through(optax.adam(0.3), quantizer)
  # Inside others, where the state is found too.
  tx = optax.chain(
    optax.clip_by_global_norm(1.0), optax.chain(plain, optax.identity())
  )
  found = steps.train(rng, tx, _params(rng), 6, compiling.full_jit)
  encode = jax.jit(
    lambda state, params: transforms.encode(state, params, quantizer)
  )
  # The first update comes from dense parameters, see `straight_through`.
  kernels = []
  for params, state in found[1:]:
    _assert_values_are(encode(state, params), params)
    kernels.append(params['head']['kernel'])
  assert (kernels[0] != kernels[-1]).any()


def test_only_what_was_selected_is_encoded(rng):
  params, quantizer = _params(rng), RIVALS['binary']
  tx = transforms.straight_through(optax.sgd(0.5), quantizer, select='head/k.*')
  found = transforms.encode(tx.init(params), params, quantizer)
  assert list(found) == ['head/kernel']
  np.testing.assert_array_equal(
    found['head/kernel'].codes, np.where(params['head']['kernel'] >= 0, 1, -1)
  )


@pytest.mark.parametrize(
  ('tx', 'quantizer', 'message'),
  [
    (
      transforms.hq(optax.sgd(0.1), transforms.Recipe()),
      transforms.ternary(0.5),
      'quantizer has no encode, wanted one that has: of hq, see finalize',
    ),
    (
      optax.adam(0.1),
      RIVALS['binary'],
      'opt_state holds no latents, wanted the state of straight_through',
    ),
  ],
)
def test_what_cannot_be_encoded_is_refused(rng, tx, quantizer, message):
  params = _params(rng)
  with pytest.raises(ValueError) as caught:
    transforms.encode(tx.init(params), params, quantizer)
  assert str(caught.value) == message
