"""Losses of training, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
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
  class_weights: jax.typing.ArrayLike | None = None,
  distill_weight: float = 0.0,
  temperature: float = 1.0,
) -> jax.Array:
  """Cross-entropy, and distillation where there is a teacher.

  `loss_i = w_i ((1 - a) CE(logits_i, targets_i) + a distillation_i)`, with `w_i
  = sum_c targets_ic class_weights_c`.

  >>> import jax.numpy as jnp
  >>> classification(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).round(4)
  Array([0.6931], dtype=float32)

  Args:
    logits: float, `[n, num_classes]`.
    targets: probabilities of the classes, the same shape.
    teacher_logits: the same shape; None without a teacher.
    class_weights: float, `[num_classes]`; see `balance`. None for one each.
    distill_weight: `a` in [0, 1].
    temperature: see `distillation`.

  Returns:
    float32, `[n]`.
  """
  losses = optax.softmax_cross_entropy(logits, targets)
  if teacher_logits is not None:
    distilled = distillation(logits, teacher_logits, temperature)
    losses = (1 - distill_weight) * losses + distill_weight * distilled
  if class_weights is None:
    return losses
  return losses * (targets @ jnp.asarray(class_weights, targets.dtype))


def balance(labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Weights with which all classes count alike, and an image one on average.

  `w_c = n / (k n_c)`, of `n` images `n_c` of the class, and `k` classes that
  have any; 0 for those that have none.

  >>> balance(np.array([0, 0, 0, 0, 2, 2]), 3).tolist()
  [0.75, 0.0, 1.5]

  Args:
    labels: of the training images, int, `[n]`, n at least 1.
    num_classes: above all labels.

  Returns:
    float32, `[num_classes]`.
  """
  counts = np.bincount(labels, minlength=num_classes)
  shares = np.count_nonzero(counts) * counts / len(labels)
  return np.where(counts > 0, 1 / np.maximum(shares, 1e-12), 0.0).astype('f4')
