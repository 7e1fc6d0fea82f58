"""Metrics as sums and counts: added on the device, divided on the host."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

# For each name a float32 vector [sum, count].
Sums = dict[str, jax.Array]


def classification_sums(
  logits: jax.Array,
  labels: jax.Array,
  valid: jax.Array | None = None,
  *,
  losses: jax.Array | None = None,
) -> Sums:
  """Loss and accuracy of a batch, as sums over its examples.

  `loss = sum_i valid_i * loss_i`, `accuracy = sum_i
  valid_i * [argmax logits_i == label_i]`; each with the count `sum_i valid_i`.
  """
  if losses is None:
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    losses = optax.softmax_cross_entropy(logits, targets)
  correct = jnp.argmax(logits, axis=-1) == labels
  if valid is None:
    valid = jnp.ones(labels.shape, bool)
  count = jnp.sum(valid, dtype=jnp.float32)
  total = lambda x: jnp.sum(jnp.where(valid, x, 0.0), dtype=jnp.float32)
  return {
    'loss': jnp.stack([total(losses), count]),
    'accuracy': jnp.stack([total(correct), count]),
  }


def describe_answers(
  logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
  """The most probable class of each example, its probability, the label's."""
  probabilities = jax.nn.softmax(logits.astype(jnp.float32))
  places = labels[:, None].astype(jnp.int32)
  of_label = jnp.take_along_axis(probabilities, places, axis=-1)
  return {
    'prediction': jnp.argmax(logits, axis=-1).astype(jnp.int32),
    'probability': jnp.max(probabilities, axis=-1),
    'label_probability': of_label[:, 0],
  }


def zeros() -> dict[str, np.ndarray]:
  """The sums of no example."""
  return {name: np.zeros(2, np.float32) for name in ('loss', 'accuracy')}


@jax.jit
def add(a: Sums, b: Sums) -> Sums:
  """Adds two sets of sums."""
  return jax.tree.map(lambda x, y: x + y, a, b)


def means(sums: Mapping[str, jax.Array]) -> dict[str, float]:
  """Divides sums by counts, on the host."""
  result = {}
  for name, pair in sums.items():
    total, count = np.asarray(pair, np.float64)
    result[name] = float(total / count) if count else float('nan')
  return result
