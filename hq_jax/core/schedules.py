"""Sparsity ramps as optax schedules, and the last steps of stages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def _check_steps(begin_step: int, ramp_steps: int) -> None:
  if begin_step < 0 or ramp_steps < 0:
    raise ValueError(
      f'begin_step is {begin_step} and ramp_steps {ramp_steps}, wanted >= 0'
    )


def sparsity_ramp(
  initial: float,
  final: float,
  *,
  begin_step: int = 0,
  ramp_steps: int,
  power: float = 3.0,
) -> optax.Schedule:
  """Raises the sparsity from `initial` to `final`.

  `s(t) = final + (initial - final) (1 - (t - begin) / ramp)^power` for `begin
  <= t <= begin + ramp`, 0 before and `final` after. With power 3 the ramp is
  steep while much can be pruned, and flat at the end; power 1 is linear; a
  ramp of 0 steps is one-shot.

  >>> ramp = sparsity_ramp(0.0, 0.8, begin_step=10, ramp_steps=10)
  >>> [round(float(ramp(step)), 4) for step in (9, 10, 15, 20, 99)]
  [0.0, 0.0, 0.7, 0.8, 0.8]

  Args:
    initial: the sparsity at `begin_step`, in [0, final].
    final: the sparsity at the end, in [0, 1).
    begin_step: the first step that prunes.
    ramp_steps: how many steps the ramp takes.
    power: the exponent, positive.

  Returns:
    A function from the step to a float32 fraction.

  Raises:
    ValueError: where a sparsity, the power or a number of steps is out of
      range.
  """
  if not 0.0 <= final < 1.0:
    raise ValueError(f'sparsity is {final}, wanted a fraction in [0, 1)')
  if not 0.0 <= initial <= final:
    raise ValueError(
      f'initial_sparsity is {initial}, wanted a fraction in [0, {final}]'
    )
  _check_steps(begin_step, ramp_steps)
  if power <= 0:
    raise ValueError(f'power is {power}, wanted a positive number')
  if ramp_steps == 0:
    ramp = optax.constant_schedule(final)
  else:
    ramp = optax.polynomial_schedule(
      init_value=initial,
      end_value=final,
      power=power,
      transition_steps=ramp_steps,
      transition_begin=begin_step,
    )

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    started = jnp.asarray(step) >= begin_step
    return jnp.where(started, ramp(step), 0.0).astype(jnp.float32)

  return schedule


def stage_ends(
  begin_step: int, num_steps: int, num_stages: int
) -> tuple[int, ...]:
  """The last step of each of `num_stages` equal stages.

  >>> stage_ends(10, 100, 4)
  (34, 59, 84, 109)

  Args:
    begin_step: the first step of the first stage.
    num_steps: the steps of all stages together, at least `num_stages`.
    num_stages: how many, at least 1.

  Returns:
    Increasing steps; the last is `begin_step + num_steps - 1`.

  Raises:
    ValueError: where there are fewer steps than stages.
  """
  if not 1 <= num_stages <= num_steps:
    raise ValueError(
      f'num_stages is {num_stages}, wanted 1 to {num_steps} (one step each)'
    )
  return tuple(
    begin_step + num_steps * (stage + 1) // num_stages - 1
    for stage in range(num_stages)
  )


def staged(
  initial: float,
  final: float,
  *,
  begin_step: int = 0,
  ramp_steps: int,
  num_stages: int,
  power: float = 3.0,
) -> optax.Schedule:
  """Raises the sparsity in so many jumps, and holds it in between.

  Stage `i` of `S` is at `final + (initial - final) (1 - i / (S - 1))^power`;
  a single stage is at `final`. Stages begin evenly over `ramp_steps`.

  >>> ramp = staged(0.2, 0.8, ramp_steps=30, num_stages=3, power=1.0)
  >>> [round(float(ramp(step)), 4) for step in (0, 9, 10, 19, 20, 99)]
  [0.2, 0.2, 0.5, 0.5, 0.8, 0.8]

  Args:
    initial: the sparsity of the first of several stages, in [0, final].
    final: the sparsity of the last, in [0, 1).
    begin_step: the first step of the first stage.
    ramp_steps: the steps of all stages together, at least `num_stages`, or 0
      for the last stage at once.
    num_stages: how many, at least 1.
    power: the exponent, positive; 1 for jumps of the same height.

  Returns:
    A function from the step to a float32 fraction.

  Raises:
    ValueError: where a sparsity, the power or a number of steps is out of
      range.
  """
  _check_steps(begin_step, ramp_steps)
  ends: tuple[int, ...] = ()
  if ramp_steps:
    ends = stage_ends(begin_step, ramp_steps, num_stages)[:-1]
  heights = sparsity_ramp(initial, final, ramp_steps=len(ends), power=power)

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step)
    stage = jnp.sum(step[..., None] > jnp.asarray(ends, jnp.int32), axis=-1)
    return jnp.where(step >= begin_step, heights(stage), 0.0)

  return schedule


def _ramp(power: float):
  # The last step is at the full sparsity.
  return lambda initial, final, begin, steps, stages: sparsity_ramp(
    initial,
    final,
    begin_step=begin,
    ramp_steps=max(steps - 1, 0),
    power=power,
  )


# From both sparsities, the first step, the number of steps and of stages.
RAMPS: dict[str, Callable[[float, float, int, int, int], optax.Schedule]] = {
  'one_shot': lambda initial, final, begin, steps, stages: sparsity_ramp(
    initial, final, begin_step=begin, ramp_steps=0
  ),
  'linear': _ramp(power=1.0),
  'cubic': _ramp(power=3.0),
  'staged': lambda initial, final, begin, steps, stages: staged(
    initial, final, begin_step=begin, ramp_steps=steps, num_stages=stages
  ),
}
