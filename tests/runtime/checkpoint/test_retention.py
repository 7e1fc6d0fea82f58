"""Which steps stay: by their age, by their number, by their score."""

import types

import pytest

from hq_jax.runtime.checkpoint import retention


def _kept(steps, **policy):
  found = retention.KeepPolicy(**policy).should_preserve(
    [types.SimpleNamespace(step=step) for step in steps], context=None
  )
  return [step for step, stays in zip(steps, found, strict=True) if stays]


@pytest.mark.parametrize(
  ('newest', 'kept'), [(2, [5, 9]), (3, [4, 5, 9]), (9, [1, 4, 5, 9])]
)
def test_the_newest_stay(newest, kept):
  assert _kept([1, 4, 5, 9], newest=newest) == kept
  # Whatever the order that they come in.
  assert sorted(_kept([9, 1, 5, 4], newest=newest)) == kept


def test_no_step_is_no_error():
  assert _kept([], newest=2, every=3, get_score=lambda step: step) == []
  assert _kept([7], newest=2) == [7]


def test_multiples_stay():
  steps = [10, 15, 20, 25, 30, 35]
  assert _kept(steps, newest=2, every=10) == [10, 20, 30, 35]
  assert _kept(steps, newest=2, every=1) == steps
  assert _kept(steps, newest=2, every=100) == [30, 35]


def test_the_best_stays_too():
  scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.1, 5: 0.2}
  best = lambda **more: _kept([1, 2, 3, 4, 5], get_score=scores.get, **more)
  assert best(newest=2) == [2, 4, 5]
  assert best(newest=2, every=3) == [2, 3, 4, 5]
  scores[5] = 1.0
  assert best(newest=2) == [4, 5]


def test_of_equal_scores_the_newer_stays():
  scores = {1: 0.9, 2: 0.9, 3: 0.2, 4: 0.1}
  assert _kept([1, 2, 3, 4], newest=1, get_score=scores.get) == [2, 4]


def test_a_step_without_a_score_does_not_compete():
  scores = {2: 0.0}
  assert _kept([1, 2, 3, 4], newest=1, get_score=scores.get) == [2, 4]
  assert _kept([1, 2, 3, 4], newest=1, get_score={}.get) == [4]
