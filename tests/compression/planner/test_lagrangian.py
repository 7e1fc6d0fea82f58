"""The optimum within a budget, against all that is possible."""

import itertools

import numpy as np
import pytest

from hq_jax.compression.planner import costs
from hq_jax.compression.planner import lagrangian

_ROWS = np.arange(4)


def _draw(rng, num=6):
  num_bytes = rng.uniform(1, 100, (4, num))
  return lagrangian.Options(
    np.array(['ternary'] * (num - 1) + ['int8']),
    np.linspace(0.9, 0, num),
    num_bytes,
    rng.uniform(0, 1, (4, num)) / num_bytes,
  )


def _all(options):
  """Bytes and distance of every combination."""
  choices = np.array(list(itertools.product(range(6), repeat=4)))
  pick = lambda table: table[_ROWS, choices].sum(axis=1)
  return pick(options.num_bytes), pick(options.distances)


@pytest.mark.parametrize('seed', range(8))
def test_nothing_as_small_is_nearer(seed):
  options = _draw(np.random.default_rng(seed))
  num_bytes, distances = _all(options)
  for budget in np.quantile(num_bytes, [0.001, 0.1, 0.5, 0.9]):
    loose, tight = lagrangian.bracket(options, budget)
    total = lambda table, choice: table[_ROWS, choice].sum()
    used = total(options.num_bytes, tight)
    assert used <= budget
    wanted = distances[num_bytes <= used * (1 + 1e-12)].min()
    assert total(options.distances, tight) == pytest.approx(wanted)
    # The other end brackets the optimum from below.
    assert total(options.distances, loose) <= distances[
      num_bytes <= budget
    ].min() * (1 + 1e-12)
    found = lagrangian.minimise(options, budget)
    assert used <= total(options.num_bytes, found) <= budget
    assert total(options.distances, found) <= wanted * (1 + 1e-12)


def test_as_many_of_equal_kernels_change_as_there_is_room_for():
  options = lagrangian.Options(
    np.array(['ternary', 'int8']),
    np.array([0.5, 0.0]),
    np.tile([20.0, 100.0], (4, 1)),
    np.tile([0.1, 0.0], (4, 1)),
  )
  for budget, num in ((90, 0), (170, 1), (319, 2), (320, 3), (400, 4)):
    assert lagrangian.minimise(options, budget).sum() == num


@pytest.mark.parametrize(
  ('budget', 'table'), [(1e9, 'distances'), (1.0, 'num_bytes')]
)
def test_an_ample_budget_and_one_too_small(rng, budget, table):
  options = _draw(rng)
  wanted = getattr(options, table).argmin(axis=1)
  np.testing.assert_array_equal(lagrangian.minimise(options, budget), wanted)


def test_encodings_are_kept(rng):
  options = _draw(rng)
  kept = lagrangian.keep_encodings(options, np.array([0, 5, 2, 5]))
  for budget in (1.0, 100.0, 1e9):
    choice = lagrangian.minimise(kept, budget)
    assert (options.encodings[choice] == 'int8').tolist() == [0, 1, 0, 1]
  assert (lagrangian.smallest(kept) == 5).tolist() == [0, 1, 0, 1]


def test_options_are_what_they_cost(rng):
  kernels = [
    costs.measure(rng.standard_normal(shape).astype(np.float32))
    for shape in ((3, 3, 1, 32), (64, 64))
  ]
  names = ('ternary', 'int8', 'float16')
  options = lagrangian.get_options(kernels, names, 0.9)
  zeros = options.sparsities[:-2]
  assert zeros[0] == 0.995 and zeros[-1] == 1 / 3
  assert (np.diff(zeros) < 0).all()
  assert options.encodings[-3:].tolist() == list(names)
  for row, kernel in enumerate(kernels):
    for i in (0, 50, 100):
      bytes_, distance = options.num_bytes[row, i], options.distances[row, i]
      assert bytes_ == 0.9 * costs.ternary_bytes(kernel.size, zeros[i])
      assert distance == np.interp(zeros[i], costs.SPARSITIES, kernel.ternary)
    assert options.num_bytes[row, -1] == round(kernel.float16.num_bytes)
    assert options.distances[row, -2] == kernel.int8.cosine_distance
