"""Whether numbers are finite, and which of two trees is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.core import branches
from hq_jax.core import finite as finite_lib


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_one_bad_number_is_enough(dtype, jit):
  call = jax.jit(finite_lib.is_finite) if jit else finite_lib.is_finite
  good = jnp.ones((2, 3), dtype)
  assert call(good)
  for value in (jnp.nan, jnp.inf, -jnp.inf):
    for index in ((0, 0), (1, 2)):
      assert not call(good.at[index].set(value)), (value, index)
  # A NaN is found beside what is larger than all.
  assert not call(good.at[0].set(jnp.inf).at[1].set(jnp.nan))


def test_what_is_large_or_empty_is_finite():
  for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    limits = jnp.finfo(dtype)
    assert finite_lib.is_finite(jnp.array([limits.max, limits.min], dtype))
    for shape in ((0,), (3, 0, 2)):
      assert finite_lib.is_finite(jnp.zeros(shape, dtype))
  assert finite_lib.is_finite(jnp.float32(-1.0))
  assert not finite_lib.is_finite(jnp.float32(jnp.nan))
  assert finite_lib.is_finite(jnp.float32(-1.0)).shape == ()
  assert finite_lib.is_finite(jnp.complex64(1j))
  assert not finite_lib.is_finite(jnp.array([1, jnp.nan * 1j], jnp.complex64))


def test_one_of_two_trees_is_taken_whole():
  new = {'a': jnp.array([jnp.nan, 1.0]), 'b': (jnp.int32(7),)}
  old = {'a': jnp.array([3.0, 4.0]), 'b': (jnp.int32(6),)}
  for is_new, wanted in ((True, new), (False, old)):
    found = jax.jit(branches.choose)(jnp.array(is_new), new, old)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(
      jnp.result_type, new
    )


def test_a_state_that_changes_its_types_keeps_the_new_ones():
  new = {'mean': jnp.full(2, 0.5), 'count': jnp.int32(1)}
  old = {'mean': jnp.full(2, 3, jnp.bfloat16), 'count': 0}
  found = branches.choose(jnp.array(False), new, old)
  np.testing.assert_array_equal(found['mean'], [3.0, 3.0])
  assert found['mean'].dtype == jnp.float32
  assert found['count'].dtype == jnp.int32 and found['count'] == 0
