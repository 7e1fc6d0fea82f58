"""The losses of training, against their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax.training import losses


def _log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _reference(logits, targets, teacher, weight, temperature):
  logits, teacher = logits.astype(float), teacher.astype(float)
  entropy = -(targets * _log_softmax(logits)).sum(-1)
  log_q = _log_softmax(teacher / temperature)
  log_p = _log_softmax(logits / temperature)
  distilled = temperature**2 * (np.exp(log_q) * (log_q - log_p)).sum(-1)
  return (1 - weight) * entropy + weight * distilled


@pytest.mark.parametrize('weight', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_the_loss_is_the_equation(rng, weight, temperature):
  logits, teacher = rng.normal(0, 3, (2, 20, 5)).astype(np.float32)
  labels = rng.integers(0, 5, 20)
  for smoothing in (0.0, 0.1, 0.9):
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 5), smoothing)
    found = losses.classification(
      logits,
      targets,
      teacher,
      distill_weight=weight,
      temperature=temperature,
    )
    wanted = _reference(
      logits, np.asarray(targets, float), teacher, weight, temperature
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)


def test_without_a_teacher_it_is_cross_entropy(rng):
  logits = rng.normal(size=(4, 3)).astype(np.float32)
  targets = jax.nn.one_hot(jnp.array([0, 1, 2, 0]), 3)
  found = losses.classification(logits, targets, distill_weight=0.7)
  np.testing.assert_array_equal(
    found, optax.softmax_cross_entropy(logits, targets)
  )


def test_the_gradient_is_the_docstrings(rng):
  logits, teacher = rng.normal(size=(2, 6, 4)).astype(np.float32)
  total = lambda x: losses.distillation(x, teacher, 3.0).sum()
  wanted = 3 * (jax.nn.softmax(logits / 3) - jax.nn.softmax(teacher / 3))
  np.testing.assert_allclose(jax.grad(total)(logits), wanted, atol=1e-5)


def test_bfloat16_logits_are_computed_in_float32(rng):
  logits, teacher = jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.bfloat16)
  found = losses.distillation(logits, teacher, 1.0)
  assert found.dtype == jnp.float32
  wanted = losses.distillation(
    logits.astype(jnp.float32), teacher.astype(jnp.float32), 1.0
  )
  np.testing.assert_array_equal(found, wanted)


def test_balanced_classes_weigh_the_same(rng):
  labels = np.array([0] * 6 + [1] * 3 + [3])
  weights = losses.balance(labels, 4)
  np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 0, 10 / 3], rtol=1e-6)
  logits = rng.normal(size=(10, 4)).astype(np.float32)
  targets = jax.nn.one_hot(labels, 4)
  found = losses.classification(logits, targets, class_weights=weights).mean()
  plain = np.asarray(losses.classification(logits, targets))
  means = [plain[labels == label].mean() for label in (0, 1, 3)]
  np.testing.assert_allclose(found, np.mean(means), rtol=1e-5)
  # The teacher's answers count as much; of a mixture, each class its part.
  half = 0.5 * (targets + targets[::-1])
  mixed = losses.classification(
    logits, half, logits[::-1], class_weights=weights, distill_weight=0.5
  )
  same = losses.classification(logits, half, logits[::-1], distill_weight=0.5)
  np.testing.assert_allclose(mixed, same * (half @ weights), rtol=1e-5)
