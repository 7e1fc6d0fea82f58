import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import step_overhead
from hq_jax.models import small
from tests import markdown


def test_a_ratio_is_taken_within_the_round():
  seconds = {
    'plain': [1.0, 2.0, 4.0],
    'qwix': [1.5, 2.2, 4.0],
    # Slower in each round by 2%, whatever else the machine did.
    'dense': [1.02, 2.04, 4.08],
    'prune': [1.01, 2.02, 4.04],
    'prune_refresh': [2.01, 4.02, 8.04],
    'ternary': [1.0, 2.0, 4.0],
    'ternary_refresh': [1.5, 3.0, 6.0],
  }
  seconds = {name: np.array(values) for name, values in seconds.items()}
  variants = {
    name: step_overhead.Variant(None, None, 4.0, 1000) for name in seconds
  }
  variants['plain'] = step_overhead.Variant(None, None, 2.0, 500)
  found = step_overhead.summarize(seconds, variants, refresh_steps=50)
  assert found['qwix_over_plain'] == pytest.approx(1.1)
  over = {name: phase['over_plain'] for name, phase in found['phases'].items()}
  assert over == pytest.approx({'dense': 1.02, 'prune': 1.03, 'ternary': 1.01})
  assert found['ours_over_plain'] == over['prune']
  assert found['pairs'] == 3
  (table,) = markdown.read_tables(step_overhead.make_table(found))
  assert table[1] == [
    'plain optax',
    '2.000',
    '1.000',
    '2.0',
    '1.00',
    '0',
    '1.00',
  ]
  assert table[4][1:] == ['2.020', '1.010', '4.0', '2.00', '0', '2.00']
  assert found['refresh_over_ordinary'] == pytest.approx(2.01 / 1.01)


@pytest.mark.parametrize('phase', step_overhead.PHASES)
def test_each_recipe_is_in_its_phase_when_it_is_measured(phase):
  recipe = step_overhead.make_recipe(phase, 50)
  warmup = 5 if phase == 'ternary' else 1
  for step in (warmup, warmup + 1000):
    pruning = recipe.begin_step <= step < recipe.ternary_begin_step
    assert pruning == (phase == 'prune')
    assert (step >= recipe.ternary_begin_step) == (phase == 'ternary')


def test_the_state_grows_by_one_copy():
  params = {'kernel': jax.ShapeDtypeStruct((1000, 64), jnp.float32)}
  found = step_overhead.count_state(params)
  assert found['one_copy_bytes'] == 4 * 64_000
  assert found['one_bit_per_weight_bytes'] == 8_000
  extra = found['state_growth_bytes'] - found['one_copy_bytes']
  assert 0 < extra < found['one_bit_per_weight_bytes']


# Qwix uses a name that Flax has renamed.
@pytest.mark.filterwarnings("ignore:'VariableState' was removed")
@pytest.mark.slow
def test_everything_is_measured():
  model = small.SmallResNet(num_classes=1000, widths=(8,), num_blocks=(1,))
  found = step_overhead.run(model, image_size=8, batch_size=2, num_rounds=2)
  assert found['pairs'] == 2 and found['plain_seconds'] > 0
  assert found['qwix_over_plain'] > 0
  for phase in ('prune', 'ternary'):
    times = found['phases'][phase]
    # Which of them is slower is lost in the noise at this size.
    assert times['refreshing_over_plain'] > 0
    assert times['ordinary_over_plain'] > 0
