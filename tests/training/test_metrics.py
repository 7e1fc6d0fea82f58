"""Sums and counts of loss and accuracy."""

import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.training import metrics


def _reference(logits, labels, valid):
  """Loss and accuracy sums in float64, one example after the other."""
  loss, correct, count = 0.0, 0, 0
  for x, label, counts in zip(logits.astype(float), labels, valid, strict=True):
    if not counts:
      continue
    log_p = x - x.max() - np.log(np.exp(x - x.max()).sum())
    loss -= log_p[label]
    correct += int(np.argmax(x) == label)
    count += 1
  return loss, correct, count


def test_sums_match_the_equation(rng):
  logits = rng.normal(0, 3, (40, 5)).astype(np.float32)
  labels = rng.integers(0, 5, 40).astype(np.int32)
  valid = rng.random(40) < 0.7
  sums = metrics.classification_sums(logits, labels, valid)
  loss, correct, count = _reference(logits, labels, valid)
  assert 0 < correct < count < 40
  np.testing.assert_allclose(sums['loss'], [loss, count], rtol=1e-5)
  np.testing.assert_array_equal(sums['accuracy'], [correct, count])
  assert {x.dtype for x in sums.values()} == {jnp.dtype(jnp.float32)}


def test_literals():
  logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]]))
  labels = jnp.array([0, 1])
  sums = metrics.classification_sums(logits, labels)
  # -log(1/4) - log(1/2); the tie goes to class 0.
  np.testing.assert_allclose(sums['loss'], [3 * np.log(2), 2], rtol=1e-6)
  np.testing.assert_array_equal(sums['accuracy'], [0, 2])
  given = metrics.classification_sums(
    logits, labels, losses=jnp.array([0.5, 2.0])
  )
  np.testing.assert_array_equal(given['loss'], [2.5, 2])


def test_padding_does_not_count_whatever_it_holds(rng):
  logits = rng.normal(size=(6, 3)).astype(np.float32)
  labels = rng.integers(0, 3, 6)
  whole = metrics.classification_sums(logits, labels)
  for filler in (0.0, np.nan, np.inf):
    padded = np.concatenate([logits, np.full((2, 3), filler, np.float32)])
    found = metrics.classification_sums(
      padded, np.append(labels, [0, 0]), np.arange(8) < 6
    )
    for name in whole:
      np.testing.assert_allclose(found[name], whole[name], rtol=1e-6)


def test_a_nan_that_counts_is_seen():
  logits = jnp.array([[jnp.nan, 0.0]])
  sums = metrics.classification_sums(logits, jnp.array([0]))
  assert np.isnan(sums['loss'][0])
  assert np.isnan(metrics.means(sums)['loss'])


def test_an_empty_count_is_not_a_number(rng):
  logits = rng.normal(size=(4, 3)).astype(np.float32)
  sums = metrics.classification_sums(
    logits, jnp.zeros(4, jnp.int32), jnp.zeros(4, bool)
  )
  np.testing.assert_array_equal(sums['loss'], [0, 0])
  found = metrics.means(sums)
  assert np.isnan(found['loss']) and np.isnan(found['accuracy'])


def test_batches_add_up_to_the_whole(rng):
  logits = rng.normal(size=(12, 3)).astype(np.float32)
  labels = rng.integers(0, 3, 12)
  total = metrics.zeros()
  for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
    total = metrics.add(
      total, metrics.classification_sums(logits[part], labels[part])
    )
  whole = metrics.means(metrics.classification_sums(logits, labels))
  found = metrics.means(total)
  assert found.keys() == {'loss', 'accuracy'}
  assert found['accuracy'] == whole['accuracy']
  assert found['loss'] == pytest.approx(whole['loss'], rel=1e-6)


def test_means_are_of_python():
  found = metrics.means({'loss': jnp.array([1.0, 3.0])})
  # In float64: float32 would give 0.3333333432674408.
  assert found == {'loss': 1 / 3}
  assert type(found['loss']) is float
