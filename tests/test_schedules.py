"""The sparsity ramp and the ends of stages."""

import jax
import numpy as np
import pytest

from hq_jax import schedules


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
