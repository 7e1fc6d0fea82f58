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

  >>> import jax.numpy as jnp
  >>> sums = classification_sums(jnp.array([[0., 9.], [9., 0.]]),
  ...                            jnp.array([1, 1]))
  >>> sums['accuracy']
  Array([1., 2.], dtype=float32)

  Args:
    logits: float, `[n, num_classes]`.
    labels: int, `[n]`.
    valid: bool, `[n]`, which examples count; None for all.
    losses: `loss_i`, float, `[n]`; None for `CE(logits_i, labels_i)`.

  Returns:
    A `[sum, count]` pair for `loss` and for `accuracy`.
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


def zeros() -> dict[str, np.ndarray]:
  """The sums of no example.

  >>> zeros()['loss']
  array([0., 0.], dtype=float32)

  Returns:
    What `classification_sums` is added to, on the host.
  """
  return {name: np.zeros(2, np.float32) for name in ('loss', 'accuracy')}


@jax.jit
def add(a: Sums, b: Sums) -> Sums:
  """Adds two sets of sums.

  >>> add({'loss': 1}, {'loss': 2})
  {'loss': Array(3, dtype=int32, weak_type=True)}

  Args:
    a: sums.
    b: sums with the same names.

  Returns:
    Their total.
  """
  return jax.tree.map(lambda x, y: x + y, a, b)


def means(sums: Mapping[str, jax.Array]) -> dict[str, float]:
  """Divides sums by counts, on the host.

  >>> import jax.numpy as jnp
  >>> means({'loss': jnp.array([3.0, 2.0])})
  {'loss': 1.5}

  Args:
    sums: pairs of sum and count by name.

  Returns:
    The mean by name; NaN where nothing was counted.
  """
  result = {}
  for name, pair in sums.items():
    total, count = np.asarray(pair, np.float64)
    result[name] = float(total / count) if count else float('nan')
  return result
