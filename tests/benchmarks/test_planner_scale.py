import json
import math
import sys

import jax
import numpy as np
import pytest

from benchmarks import memory
from benchmarks import planner_scale
from tests import markdown


@pytest.mark.parametrize('size', [10**7, 10**8, 10**9])
@pytest.mark.parametrize(
  'make', [planner_scale.make_transformer, planner_scale.make_resnet]
)
def test_networks_have_about_so_many_weights(make, size):
  tree = make(size)
  sizes = [math.prod(x.shape) for x in jax.tree.leaves(tree)]
  assert planner_scale.count(tree) == sum(sizes)
  assert sum(sizes) == pytest.approx(size, rel=0.06)


def test_a_residual_network_by_hand():
  # Of width 1: 9 weights for each pair of channels, and four for each output.
  tree = planner_scale.make_resnet(1)
  kernels = 6 * 1 + (7 * 4 + 2) + (11 * 16 + 8) + (5 * 64 + 32)
  channels = 6 * 1 + 8 * 2 + 12 * 4 + 6 * 8
  assert planner_scale.count(tree) == 9 * kernels + 4 * channels


def test_weights_are_drawn_where_there_are_not_too_many():
  cases = planner_scale.list_cases([10, 1000], 100)
  assert cases[:4] == [
    ('planner', 'transformer', 10),
    ('planner', 'transformer', 1000),
    ('planner', 'resnet', 10),
    ('planner', 'resnet', 1000),
  ]
  assert {size for task, _, size in cases[4:]} == {10}
  assert [task for task, *_ in cases[4:]] == [
    *('planner_of_weights', 'compress', 'no_plan')
  ]


def test_the_larger_of_both_networks_counts():
  row = {'task': 'planner', 'size': 10**8, 'cpu_seconds': 0.1}
  rows = [
    row | {'seconds': 3.0, 'peak_bytes_per_weight': 0.5},
    row | {'seconds': 2.0, 'peak_bytes_per_weight': 0.75},
    row | {'seconds': 9.0, 'peak_bytes_per_weight': 0.25, 'size': 10**9},
  ]
  assert planner_scale.summarize(rows) == {
    'planner_100m_seconds': 3.0,
    'planner_100m_cpu_seconds': 0.1,
    'planner_100m_bytes_per_weight': 0.75,
    'planner_1b_seconds': 9.0,
    'planner_1b_cpu_seconds': 0.1,
    'planner_1b_bytes_per_weight': 0.25,
  }


def test_the_peak_is_that_of_what_runs():
  held = np.ones(1 << 22)
  peak = memory.measure_peak(lambda: np.ones(1 << 23).sum() + held[0])
  assert 60 << 20 < peak < 80 << 20
  assert memory.measure_peak(lambda: None) < 4 << 20


@pytest.mark.slow
def test_every_task_is_measured(monkeypatch, capsys):
  arguments = ['--sizes', '2e5', '4e5', '--most_drawn=3e5', '--rounds=2']
  monkeypatch.setattr(sys, 'argv', ['planner_scale', *arguments])
  planner_scale.main()
  *table, last = capsys.readouterr().out.splitlines()
  found = json.loads(last)
  assert [row['rounds'] for row in found['rows']] == [2, 2, 2, 2, 2, 1, 1]
  ((_, *rows),) = markdown.read_tables('\n'.join(table))
  assert [row[0] for row in rows] == [row['task'] for row in found['rows']]
  for task in ('planner', 'planner_of_weights', 'compress', 'no_plan'):
    assert found[f'{task}_200k_seconds'] > 0
    assert found[f'{task}_200k_bytes_per_weight'] >= 0
  assert found['planner_400k_seconds'] > 0
  assert found['hardware']['cpu_cores']
