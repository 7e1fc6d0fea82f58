"""Losses of training, example by example."""

import jax
import jax.numpy as jnp
import optax


def distillation(
  logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> jax.Array:
  """How far a network's answers are from its teacher's.

  `loss_i = T^2 KL(softmax(teacher_i / T) || softmax(logits_i / T))`. The factor
  `T^2` keeps the size of the gradients, which fall as `1 / T^2`:
  `d loss_i / d logits_i = T (softmax(logits_i / T) - softmax(teacher_i / T))`.

  >>> import jax.numpy as jnp
  >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
  >>> distillation(logits, logits, 4.0).tolist()
  [0.0, 0.0]

  Args:
    logits: of the network that is trained, float, `[n, num_classes]`.
    teacher_logits: of the teacher, the same shape.
    temperature: `T > 0`; above 1 it is the wrong classes that count more.

  Returns:
    float32, `[n]`, each at least 0.

  Reference:
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
  """
  log_p = lambda x: jax.nn.log_softmax(x.astype(jnp.float32) / temperature)
  return temperature**2 * optax.losses.kl_divergence_with_log_targets(
    log_p(logits), log_p(teacher_logits)
  )


def classification(
  logits: jax.Array,
  targets: jax.Array,
  teacher_logits: jax.Array | None = None,
  *,
  distill_weight: float = 0.0,
  temperature: float = 1.0,
) -> jax.Array:
  """Cross-entropy, and distillation where there is a teacher.

  `loss_i = (1 - a) CE(logits_i, targets_i) + a distillation_i`.

  >>> import jax.numpy as jnp
  >>> classification(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).round(4)
  Array([0.6931], dtype=float32)

  Args:
    logits: float, `[n, num_classes]`.
    targets: probabilities of the classes, the same shape.
    teacher_logits: the same shape; None without a teacher.
    distill_weight: `a` in [0, 1].
    temperature: see `distillation`.

  Returns:
    float32, `[n]`.
  """
  losses = optax.softmax_cross_entropy(logits, targets)
  if teacher_logits is None:
    return losses
  distilled = distillation(logits, teacher_logits, temperature)
  return (1 - distill_weight) * losses + distill_weight * distilled
