"""The sparsity ramps and the last steps of stages."""

import jax
import numpy as np
import pytest

from hq_jax.core import schedules


def _reference(step, initial, final, begin, ramp, power):
  if step < begin:
    return 0.0
  done = 1.0 if ramp == 0 else min((step - begin) / ramp, 1.0)
  return final + (initial - final) * (1 - done) ** power


@pytest.mark.parametrize(
  ('begin', 'ramp', 'power'),
  [(0, 0, 3.0), (7, 0, 1.0), (1, 1, 3.0), (0, 10, 1.0), (7, 10, 3.0)],
)
def test_ramp_matches_the_equation(begin, ramp, power):
  schedule = jax.jit(
    schedules.sparsity_ramp(
      0.3, 0.85, begin_step=begin, ramp_steps=ramp, power=power
    )
  )
  steps = range(begin + ramp + 5)
  wanted = [_reference(t, 0.3, 0.85, begin, ramp, power) for t in steps]
  got = np.array([schedule(t) for t in steps])
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
  assert (np.diff(got) >= 0).all()
  # At the end, the same float32 as the quantizer makes of the fraction.
  assert (got[begin + ramp :] == np.float32(0.85)).all()


def test_stage_ends_literals():
  assert schedules.stage_ends(0, 10, 1) == (9,)
  assert schedules.stage_ends(0, 10, 2) == (4, 9)
  assert schedules.stage_ends(5, 10, 3) == (7, 10, 14)
  assert schedules.stage_ends(2, 3, 3) == (2, 3, 4)


@pytest.mark.parametrize('num_steps', [1, 7, 100])
def test_stage_ends_are_even_and_end_with_the_last_step(num_steps):
  for num_stages in range(1, num_steps + 1):
    ends = schedules.stage_ends(3, num_steps, num_stages)
    assert len(ends) == num_stages
    assert ends[-1] == 3 + num_steps - 1
    lengths = np.diff([2, *ends])
    assert lengths.min() >= 1
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize(('num_steps', 'num_stages'), [(3, 4), (3, 0), (0, 1)])
def test_stage_ends_refuses(num_steps, num_stages):
  with pytest.raises(ValueError, match=f'num_stages is {num_stages}'):
    schedules.stage_ends(0, num_steps, num_stages)


@pytest.mark.parametrize(
  ('begin', 'ramp', 'num_stages', 'power'),
  [(0, 20, 1, 3.0), (5, 20, 2, 1.0), (0, 20, 3, 3.0), (3, 0, 4, 3.0)],
)
def test_staged_matches_the_equation(begin, ramp, num_stages, power):
  schedule = schedules.staged(
    0.3,
    0.85,
    begin_step=begin,
    ramp_steps=ramp,
    num_stages=num_stages,
    power=power,
  )
  steps = np.arange(begin + ramp + 5)
  done = 1.0
  if ramp and num_stages > 1:
    # How many stages are over, but for the last, which is never.
    ends = schedules.stage_ends(begin, ramp, num_stages)
    done = np.searchsorted(ends[:-1], steps) / (num_stages - 1)
  wanted = 0.85 + (0.3 - 0.85) * (1 - done) ** power
  wanted = np.where(steps < begin, 0, wanted)
  got = jax.jit(jax.vmap(schedule))(steps)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
  assert got[-1] == np.float32(0.85)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'final': 1.0}, 'sparsity is 1.0'),
    ({'final': -0.1}, 'sparsity is -0.1'),
    ({'final': float('nan')}, 'sparsity is nan'),
    ({'initial': 0.9}, 'initial_sparsity is 0.9'),
    ({'initial': -0.1}, 'initial_sparsity is -0.1'),
    ({'begin_step': -1}, 'begin_step is -1'),
    ({'ramp_steps': -1}, 'ramp_steps -1'),
    ({'power': 0.0}, 'power is 0.0'),
    ({'num_stages': 0}, 'num_stages is 0'),
    ({'num_stages': 11}, 'num_stages is 11, wanted 1 to 10'),
  ],
)
def test_ramps_refuse(arguments, message):
  valid = {'initial': 0.3, 'final': 0.8, 'ramp_steps': 10}
  with pytest.raises(ValueError, match=message):
    schedules.staged(**({'num_stages': 3} | valid | arguments))
  if 'num_stages' not in arguments:
    with pytest.raises(ValueError, match=message):
      schedules.sparsity_ramp(**(valid | arguments))


# From 0.2 to 0.8 in the four steps from 3 on.
RAMPS = {
  'one_shot': [0, 0.8, 0.8, 0.8, 0.8, 0.8],
  'linear': [0, 0.2, 0.4, 0.6, 0.8, 0.8],
  # 0.8 - 0.6 (2 / 3)^3 and 0.8 - 0.6 / 27.
  'cubic': [0, 0.2, 0.8 - 1.6 / 9, 0.8 - 0.2 / 9, 0.8, 0.8],
  'staged': [0, 0.2, 0.2, 0.8, 0.8, 0.8],
}


def test_ramps_by_name():
  assert set(schedules.RAMPS) == set(RAMPS)
  for name, wanted in RAMPS.items():
    schedule = schedules.RAMPS[name](0.2, 0.8, 3, 4, 2)
    got = [float(schedule(t)) for t in range(2, 8)]
    np.testing.assert_allclose(got, wanted, rtol=1e-6, err_msg=name)
    # The last of these steps is at the same float32 as the quantizer.
    assert np.float32(schedule(6)) == np.float32(0.8)
    # A step or none ends at once.
    for steps in (0, 1):
      schedule = schedules.RAMPS[name](0.2, 0.8, 3, steps, 1)
      assert float(schedule(2)) == 0.0
      assert float(schedule(3)) == np.float32(0.8)
