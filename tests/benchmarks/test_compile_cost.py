import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import compile_cost


def test_equations_are_counted_through_all_that_is_called():
  def branches(x):
    # A comparison, a conversion and the condition; one and two in its branches.
    return lax.cond(x > 0, lambda x: x + 1, lambda x: x * x * x, x)

  jaxpr = jax.make_jaxpr(branches)(1.0).jaxpr
  assert compile_cost.count_equations(jaxpr) == 3 + 1 + 2


def test_each_call_of_a_function_counts():
  double = jax.jit(lambda x: x + x)
  loop = lambda x: lax.fori_loop(0, 3, lambda _, x: double(double(x)), x)
  once, twice = (
    compile_cost.count_equations(jax.make_jaxpr(function)(1.0).jaxpr)
    for function in (loop, lambda x: loop(loop(x)))
  )
  assert once >= 5 and twice == 2 * once


def test_a_ratio_is_taken_within_the_round():
  seconds = {'adamw': np.array([1.0, 2.0, 4.0]), 'ours': np.array([2, 4, 12.0])}
  found = compile_cost.summarize({'adamw': 100, 'ours': 150}, seconds)
  assert found['ours']['compile_over_adamw'] == 2
  assert found['ours']['compile_seconds'] == 4
  assert found['ours']['equations_over_adamw'] == 1.5


def test_nothing_is_cached_from_one_round_to_the_next():
  traced = []

  def function(x):
    traced.append(x)
    return x + 1

  seconds = compile_cost.time_compiling({'f': (function, (1.0,))}, num_rounds=3)
  assert len(traced) == 3 and (seconds['f'] > 0).all()


def test_updates_are_those_of_every_leaf():
  params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.zeros(2)}
  equations = compile_cost.count_all_equations(
    compile_cost.make_updates(params)
  )
  assert 0 < equations['adamw'] < equations['ours']


def test_eager_compilations_are_counted_by_call():
  def update_fn(updates, state, params):
    # A new function at every call is a new program.
    return jax.jit(lambda u: u * 0.1)(updates), state

  tx = optax.GradientTransformation(lambda params: (), update_fn)
  first, *others = compile_cost.count_eager_compilations(tx, jnp.ones(7))
  assert first >= 1 and others == [1, 1]
