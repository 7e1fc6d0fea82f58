"""The sparsity ramp and the ends of stages."""

import jax
import numpy as np
import pytest

from hq_jax.core import schedules


def _reference(step, initial, final, begin, ramp, power):
  if step < begin:
    return 0.0
  done = 1.0 if ramp == 0 else min((step - begin) / ramp, 1.0)
  return final + (initial - final) * (1 - done) ** power


@pytest.mark.parametrize('begin', [0, 1, 7])
@pytest.mark.parametrize('ramp', [0, 1, 2, 10])
@pytest.mark.parametrize('power', [1.0, 3.0])
def test_ramp_matches_the_equation(begin, ramp, power):
  schedule = schedules.sparsity_ramp(
    0.3, 0.85, begin_step=begin, ramp_steps=ramp, power=power
  )
  steps = range(begin + ramp + 5)
  wanted = [_reference(t, 0.3, 0.85, begin, ramp, power) for t in steps]
  np.testing.assert_allclose(
    [schedule(t) for t in steps], wanted, rtol=1e-6, atol=1e-7
  )


def test_ramp_literals():
  # Cubic, half-way: 0.8 - 0.8 / 8.
  schedule = schedules.sparsity_ramp(0.0, 0.8, begin_step=10, ramp_steps=10)
  got = [float(schedule(t)) for t in (9, 10, 15, 20, 1000)]
  np.testing.assert_allclose(got, [0, 0, 0.7, 0.8, 0.8], rtol=1e-6)
  linear = schedules.sparsity_ramp(0.2, 0.8, ramp_steps=4, power=1)
  got = [float(linear(t)) for t in range(5)]
  np.testing.assert_allclose(got, [0.2, 0.35, 0.5, 0.65, 0.8], rtol=1e-6)


@pytest.mark.parametrize('begin', [0, 3])
def test_a_ramp_of_no_steps_is_one_shot(begin):
  schedule = schedules.sparsity_ramp(0.3, 0.9, begin_step=begin, ramp_steps=0)
  assert schedule(begin) == np.float32(0.9)
  if begin:
    assert schedule(begin - 1) == 0


def test_the_end_is_exact_and_the_ramp_never_falls():
  schedule = schedules.sparsity_ramp(0.3, 0.85, ramp_steps=37)
  values = np.array([schedule(t) for t in range(45)])
  assert (np.diff(values) >= 0).all()
  # The same float32 as the quantizer makes of the fraction.
  assert (values[37:] == np.float32(0.85)).all()


def test_ramp_under_jit_is_float32():
  schedule = schedules.sparsity_ramp(0.3, 0.8, begin_step=2, ramp_steps=4)
  got = jax.jit(schedule)(3)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, 0.8 - 0.5 * 0.75**3, rtol=1e-6)


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
  ],
)
def test_ramp_refuses(arguments, message):
  valid = {'initial': 0.3, 'final': 0.8, 'ramp_steps': 10}
  with pytest.raises(ValueError, match=message):
    schedules.sparsity_ramp(**(valid | arguments))


def test_stage_ends_literals():
  assert schedules.stage_ends(0, 10, 1) == (9,)
  assert schedules.stage_ends(0, 10, 2) == (4, 9)
  assert schedules.stage_ends(5, 10, 3) == (7, 10, 14)
  assert schedules.stage_ends(2, 3, 3) == (2, 3, 4)


@pytest.mark.parametrize('num_steps', [1, 7, 10, 100])
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


@pytest.mark.parametrize('begin', [0, 5])
@pytest.mark.parametrize('num_stages', [1, 2, 3, 7])
@pytest.mark.parametrize('power', [1.0, 3.0])
def test_staged_matches_the_equation(begin, num_stages, power):
  schedule = schedules.staged(
    0.3,
    0.85,
    begin_step=begin,
    ramp_steps=20,
    num_stages=num_stages,
    power=power,
  )
  ends = schedules.stage_ends(begin, 20, num_stages)
  steps = np.arange(begin + 25)
  # How many stages are over, but for the last, which is never.
  stage = np.searchsorted(ends[:-1], steps)
  done = stage / (num_stages - 1) if num_stages > 1 else 1.0
  wanted = 0.85 + (0.3 - 0.85) * (1 - done) ** power
  wanted = np.where(steps < begin, 0, wanted)
  got = schedule(steps)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
  assert got[-1] == np.float32(0.85)


def test_staged_literals():
  # Three stages of 3, 3 and 4 steps; cubic, half-way: 0.8 - 0.8 / 8.
  schedule = schedules.staged(
    0.0, 0.8, begin_step=2, ramp_steps=10, num_stages=3
  )
  got = [float(schedule(t)) for t in (1, 2, 4, 5, 7, 8, 11, 12, 1000)]
  wanted = [0, 0, 0, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8]
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_staged_at_once():
  schedule = schedules.staged(
    0.3, 0.9, begin_step=3, ramp_steps=0, num_stages=4
  )
  assert [float(schedule(t)) for t in (2, 3, 4)] == [
    0.0,
    np.float32(0.9),
    np.float32(0.9),
  ]


def test_staged_under_jit_is_float32():
  schedule = schedules.staged(0.2, 0.8, ramp_steps=4, num_stages=2)
  got = jax.jit(jax.vmap(schedule))(np.arange(5))
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [0.2, 0.2, 0.8, 0.8, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'final': 1.0}, 'sparsity is 1.0'),
    ({'initial': 0.9}, 'initial_sparsity is 0.9'),
    ({'power': 0.0}, 'power is 0.0'),
    ({'num_stages': 0}, 'num_stages is 0'),
    ({'num_stages': 11}, 'num_stages is 11, wanted 1 to 10'),
    ({'ramp_steps': -1}, 'ramp_steps -1'),
    ({'begin_step': -1}, 'begin_step is -1'),
  ],
)
def test_staged_refuses(arguments, message):
  valid = {'initial': 0.3, 'final': 0.8, 'ramp_steps': 10, 'num_stages': 3}
  with pytest.raises(ValueError, match=message):
    schedules.staged(**(valid | arguments))


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


@pytest.mark.parametrize('name', RAMPS)
@pytest.mark.parametrize('steps', [0, 1])
def test_ramps_of_a_step_or_none_end_at_once(name, steps):
  schedule = schedules.RAMPS[name](0.2, 0.8, 3, steps, 1)
  assert float(schedule(2)) == 0.0
  assert float(schedule(3)) == np.float32(0.8)
