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
  ('steps', 'policy', 'kept'),
  [
    ([1, 4, 5, 9], {'newest': 2}, [5, 9]),
    ([9, 1, 5, 4], {'newest': 3}, [9, 5, 4]),  # Whatever their order.
    ([1, 4], {'newest': 9}, [1, 4]),
    ([], {'newest': 2, 'every': 3, 'get_score': float}, []),
    ([10, 15, 20, 25, 30], {'newest': 1, 'every': 10}, [10, 20, 30]),
    ([10, 15, 20], {'newest': 2, 'every': 100}, [15, 20]),
  ],
)
def test_the_newest_stay_and_multiples(steps, policy, kept):
  assert _kept(steps, **policy) == kept


@pytest.mark.parametrize(
  ('scores', 'kept'),
  [
    ({1: 0.5, 2: 0.9, 3: 0.7, 4: 0.1}, [2, 4]),
    ({1: 0.5, 2: 0.9, 3: 0.7, 4: 1.0}, [4]),
    ({1: 0.9, 2: 0.9, 3: 0.2, 4: 0.1}, [2, 4]),  # Of equals the newer.
    ({2: 0.0}, [2, 4]),  # A step without a score does not compete.
    ({}, [4]),
  ],
)
def test_the_best_stays_too(scores, kept):
  assert _kept([1, 2, 3, 4], newest=1, get_score=scores.get) == kept
