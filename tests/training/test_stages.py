"""Which phase an epoch of a stage belongs to."""

import optax
import pytest

from hq_jax.compression import planner
from hq_jax.training import stages


def _make_stage(*phases):
  return stages.Stage(
    name='compress',
    plan=planner.Plan({}, 1, 1, 1),
    tx=optax.identity(),
    schedule=lambda step: step,
    first_epoch=7,
    phases=phases,
    seed=1,
  )


@pytest.mark.parametrize(
  ('phases', 'wanted'),
  [
    ((('prune', 2), ('ternary', 3)), 'prune prune ternary ternary ternary'),
    ((('prune', 0), ('ternary', 2)), 'ternary ternary'),
    ((('prune', 1), ('ternary', 0)), 'prune'),
    ((('dense', 1),), 'dense'),
  ],
)
def test_epochs_belong_to_phases_in_turn(phases, wanted):
  stage = _make_stage(*phases)
  names = wanted.split()
  assert stage.num_epochs == len(names)
  # Counted from 1, whatever came before the stage.
  found = [stage.get_phase(epoch) for epoch in range(1, len(names) + 1)]
  assert found == names


def test_a_stage_without_epochs_has_a_phase_all_the_same():
  stage = _make_stage(('dense', 0))
  assert stage.num_epochs == 0
  assert stage.get_phase(1) == 'dense'
