"""What trainings of many seeds under `vmap` cost, over one after another.

Under `vmap` a condition becomes a choice between results that were both
computed, so that work meant for few steps is done at each of them.
"""

from collections.abc import Callable
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import transforms

NUM_SEEDS = 4
_NUM_STEPS = 40
_WIDTHS = (128, 256, 256, 10)


def make_training(
  tx: optax.GradientTransformation, widths: tuple[int, ...], num_steps: int
) -> Callable[[jax.Array], Any]:
  """From a key to the parameters of a trained MLP and its losses."""

  def apply(params, x):
    *hidden, last = params.values()
    for layer in hidden:
      x = jax.nn.relu(x @ layer['kernel'])
    return x @ last['kernel']

  def train(key):
    key, data_key = jax.random.split(key)
    x = jax.random.normal(data_key, (64, widths[0]))
    labels = (x[:, 0] > 0).astype(jnp.int32)
    init = jax.nn.initializers.he_normal()
    params = {
      f'layer{i}': {'kernel': init(jax.random.fold_in(key, i), shape)}
      for i, shape in enumerate(itertools.pairwise(widths))
    }

    def loss_fn(params):
      logits = apply(params, x)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean()

    def step(carry, _):
      params, state = carry
      loss, grads = jax.value_and_grad(loss_fn)(params)
      updates, state = tx.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(
      step, (params, tx.init(params)), length=num_steps
    )
    return params, losses

  return train


def measure(
  widths: tuple[int, ...] = _WIDTHS, num_rounds: int = 5
) -> dict[str, float]:
  """Seconds under `vmap` over those one after another, for Adam and for ours.

  Both ratios are medians of those within a round, and so is ours over Adam's.
  """
  recipe = transforms.Recipe(
    sparsity=0.8,
    begin_step=5,
    prune_steps=20,
    num_stages=2,
    refresh_steps=10,
    end_step=_NUM_STEPS,
  )
  adam = optax.adam(1e-3)
  keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
  runs = {}
  for name, tx in {'adam': adam, 'ours': transforms.hq(adam, recipe)}.items():
    train = make_training(tx, widths, _NUM_STEPS)
    one, many = jax.jit(train), jax.jit(jax.vmap(train))
    runs[name, 'one'] = lambda one=one: [one(key) for key in keys]
    runs[name, 'many'] = lambda many=many: many(keys)
  for run in runs.values():
    jax.block_until_ready(run())
  seconds: dict[Any, list[float]] = {name: [] for name in runs}
  for i in range(num_rounds):
    for name in list(runs) if i % 2 == 0 else reversed(runs):
      started = time.perf_counter()
      jax.block_until_ready(runs[name]())
      seconds[name].append(time.perf_counter() - started)
  adam_ratio, our_ratio = (
    np.array(seconds[name, 'many']) / np.array(seconds[name, 'one'])
    for name in ('adam', 'ours')
  )
  return {
    'adam_vmap_over_loop': float(np.median(adam_ratio)),
    'ours_vmap_over_loop': float(np.median(our_ratio)),
    'vmap_over_adam': float(np.median(our_ratio / adam_ratio)),
  }
