"""The benchmark of accuracy: its tasks, its tables, and a run of seconds."""

import argparse
import itertools
import json
import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy import figures
from benchmarks.accuracy import pool
from benchmarks.accuracy import report
from benchmarks.accuracy import runs
from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks
from hq_jax import config as config_lib
from hq_jax.data import sources
from hq_jax.data.sets import datasets
from tests import compiling
from tests import markdown
from tests import runs as processes

_TASK = tasks.Task('digits', 'mlp', 'hq', 40.0, 1e-2, 0)


def _result(method, accuracy, seed=0, ratio=40.0, num_bytes=1000):
  return {
    'set': 'digits',
    'network': 'mlp',
    'method': method,
    'ratio': ratio,
    'rate': 1e-2,
    'seed': seed,
    'accuracy': accuracy,
    'file_bytes': num_bytes,
    'file_ratio': 40.5 + seed,
    'commit': 'abc',
    'hardware': {'cpu': 'x'},
  }


_RESULTS = [
  _result('dense', 0.99, ratio=0.0),
  _result('dense', 0.97, 1, ratio=0.0),
  _result('hq', 0.96),
  _result('hq', 0.98, 1),
  _result('plain', 0.95),
  _result('plain', 0.95, 1),
  _result('binary', 0.90),
  _result('binary', 0.96, 1),
]


def test_summaries_are_means_and_standard_errors():
  found = tables.summarize(_RESULTS)['digits', 'mlp', 'hq', 40.0]
  assert found.mean == pytest.approx(0.97)
  # The deviations are 0.01 each: s = 0.01 sqrt(2), over sqrt(2).
  assert found.standard_error == pytest.approx(0.01)
  assert (found.seeds, found.least_ratio, found.rate) == (2, 40.5, 1e-2)
  (alone,) = tables.summarize(_RESULTS[:1]).values()
  assert alone.standard_error is None


def test_a_cell_has_the_best_rival():
  (cell,) = tables.make_cells(tables.summarize(_RESULTS))
  assert cell['dense_mean'] == pytest.approx(0.98)
  assert (cell['rival'], cell['rival_mean']) == ('plain', pytest.approx(0.95))
  assert cell['ours_se'] == pytest.approx(0.01)
  # 0.02 over the root of 0.01^2 + 0^2.
  assert cell['rivals']['plain']['margin_in_se'] == pytest.approx(2.0)
  # 0.04 over the root of 0.01^2 + 0.03^2.
  margin = cell['rivals']['binary']['margin_in_se']
  assert margin == pytest.approx(0.04 / np.hypot(0.01, 0.03))
  assert not tables.make_cells(tables.summarize(_RESULTS[:4]))


def test_a_table_for_each_set_and_network():
  results = [
    *_RESULTS,
    _result('hq', 0.5, ratio=60.0),
    _result('hq', 0.25) | {'network': 'resnet'},
  ]
  text = tables.make_tables(tables.summarize(results), ('dense', 'hq', 'twn'))
  first, second = markdown.read_tables(text)
  assert first == [
    ['method', '40x', '60x'],
    ['dense', '98.00 ± 1.00', '98.00 ± 1.00'],
    ['ours', '97.00 ± 1.00', '50.00'],
  ]
  assert second == [['method', '40x'], ['ours', '25.00']]
  heads = [line for line in text.splitlines() if line.endswith(':')]
  assert heads == ['digits, mlp:', 'digits, resnet:']


def test_processes_share_the_cores():
  assert pool.share_cores([3, 5], 2) == [{3}, {5}]
  assert pool.share_cores([0, 1, 2, 3, 4], 2) == [{0, 1}, {2, 3}]
  assert pool.share_cores([4, 7], 3) == [{4}, {7}, {4}]


def test_every_method_has_a_name():
  assert set(tables.NAMES) == {'dense', *tasks.METHODS}
  assert {'hq', *tasks.RIVALS, *tasks.ABLATIONS} == set(tasks.METHODS)


def test_the_rate_is_that_of_the_best_search():
  results = [
    _result('hq', accuracy) | {'rate': rate}
    for accuracy, rate in ((0.9, 3e-3), (0.95, 2e-2), (0.95, 1e-2))
  ]
  rates = tables.choose_rates(results)
  assert rates == {('digits', 'mlp', 'hq'): 1e-2}
  # Two seeds at 3e-3: 0.9 and 1.0, the mean of which is as good, and smaller.
  second = _result('hq', 1.0, seed=1) | {'rate': 3e-3}
  rates = tables.choose_rates([*results, second])
  assert rates == {('digits', 'mlp', 'hq'): 3e-3}


def test_rates_whose_accuracies_came_in_another_order_are_equal():
  results = [
    _result('hq', accuracy) | {'rate': rate}
    for rate, found in ((3e-3, (0.3, 0.2, 0.1)), (1e-2, (0.1, 0.2, 0.3)))
    for accuracy in found
  ]
  assert list(tables.choose_rates(results).values()) == [3e-3]


def test_what_was_run_at_another_rate_is_left_out():
  searched = [_result('hq', 0.9) | {'rate': rate} for rate in (1e-2, 3e-2)]
  searched[1]['accuracy'] = 0.95
  results = [_result('dense', 0.9), _result('hq', 0.9), _result('twn', 0.9)]
  found = tables.at_best_rates(results, searched)
  assert [result['method'] for result in found] == ['dense', 'twn']
  assert tables.at_best_rates(results, searched[:1]) == results


def test_a_large_set_takes_the_rates_of_a_small_one():
  small = {('digits', 'mlp', 'hq'): 0.5, ('digits', 'mlp', 'twn'): 0.25}
  found = accuracy.spread_rates(small, [('a', 'b'), ('c', 'd')])
  expected = {('a', 'b', 'hq'): 0.5, ('a', 'b', 'twn'): 0.25}
  assert found == expected | {('c', 'd', 'hq'): 0.5, ('c', 'd', 'twn'): 0.25}


def test_what_has_no_budget_is_refused(monkeypatch, capsys):
  words = ['accuracy', '--sets', 'glyphs/32_large', '--networks', 'mlp']
  monkeypatch.setattr(sys, 'argv', words)
  with pytest.raises(SystemExit):
    accuracy.main()
  assert (
    'are glyphs/32_large with mlp, wanted one of' in capsys.readouterr().err
  )


def test_all_methods_are_searched_alike():
  cells = list(tasks.BUDGETS)
  found = accuracy.make_searches(cells, list(tasks.METHODS))
  for cell, method in itertools.product(cells, tasks.METHODS):
    here = [(t.rate, t.seed) for t in found if t[:3] == (*cell, method)]
    seeds = [100 + x for x in range(tasks.BUDGETS[cell].num_searches)]
    assert here == list(itertools.product(tasks.RATES, seeds))
  assert {task.kind for task in found} == {'search'}
  names = [task.name for task in found]
  assert len(set(names)) == len(names)


def test_parts_are_run_at_their_own_ratios():
  arguments = argparse.Namespace(
    methods=['hq', 'hq_tree'],
    ratios=[30.0],
    part_ratios=[40.0, 60.0],
    seeds=[0, 1],
    traces=1,
  )
  rates = {('digits', 'mlp', 'hq'): 0.5}
  found = accuracy.make_finals([('digits', 'mlp')], arguments, rates)
  kinds = [(t.method, t.ratio, t.rate, t.kind) for t in found]
  assert kinds.count(('dense', 0.0, 0.0, 'final')) == 2
  assert kinds.count(('hq', 30.0, 0.5, 'final')) == 2
  assert kinds.count(('hq', 40.0, 0.5, 'trace')) == 1
  assert kinds.count(('hq_tree', 40.0, 1.0, 'final')) == 2
  assert kinds.count(('hq_tree', 60.0, 1.0, 'final')) == 2
  assert len(kinds) == 9


@pytest.mark.parametrize('method', tasks.METHODS)
def test_a_method_has_the_epochs_of_all(method):
  for cell, budget in tasks.BUDGETS.items():
    task = tasks.Task(*cell, method, 40.0, 4e-3, 3)
    config = config_lib.validate(tasks.make_config(task, budget, {}))
    epochs = config.prune.epochs + config.ternary.epochs
    assert config.dense.epochs == budget.dense_epochs
    assert epochs == budget.compress_epochs
    assert config.seed == 3
    rates = {config.prune.learning_rate, config.ternary.learning_rate}
    assert max(rates) == 4e-3
    assert task.method.startswith('hq') or not config.prune.epochs


def test_dense_has_them_too():
  task = tasks.Task('digits', 'mlp', 'dense', 0.0, 0.0, 0)
  config = tasks.make_config(task, tasks.Budget(2, 5, 64, 0), {})
  assert config.dense.epochs == 7


def test_the_search_never_sees_the_test_images():
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  source = sources.MemorySource(images, np.arange(10, dtype=np.int32))
  whole = datasets.Dataset(
    *('x', ('a',), (1, 1, 1), (0.0, 255.0), (0.0,), (1.0,)), source, 'test'
  )
  held_out = []
  for seed in range(100, 105):
    found = tasks.hold_out(whole, seed)
    both = [*found.train.labels.tolist(), *found.test.labels.tolist()]
    assert sorted(both) == list(range(10))
    for part in (found.train, found.test):
      assert part.images.ravel().tolist() == part.labels.tolist()
    held_out += found.test.labels.tolist()
  # Each seed has its own.
  assert held_out == [8, 9, 6, 7, 4, 5, 2, 3, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize('method', ['binary', 'uniform', 'twn', 'vector'])
def test_a_rival_is_as_large_as_fits(method):
  task = _TASK._replace(method=method)
  budget = tasks.get_budget(task)
  dataset = datasets.load('digits')
  wanted = tasks.count_bytes(task, budget, dataset) / 40.0
  fitted = tasks.fit(task, budget, dataset)
  plan = tasks._predict(task, budget, dataset, fitted)
  num_bytes = tasks._get_bytes(task, budget, dataset, fitted, plan)
  assert 0.95 * wanted < num_bytes <= wanted


@pytest.mark.slow
def test_a_ratio_that_cannot_be_reached_is_refused():
  task = _TASK._replace(method='binary', ratio=1e6)
  with pytest.raises(ValueError, match='ratio is 1e\\+06, wanted one that'):
    tasks.fit(task, tasks.get_budget(task), datasets.load('digits'))


def test_results_of_other_epochs_are_refused(tmp_path):
  path = tmp_path / 'results' / f'{_TASK.name}.json'
  path.parent.mkdir()
  path.write_text(json.dumps({'dense_epochs': 1, 'compress_epochs': 2}))
  budget = tasks.Budget(1, 3, 64, 0)
  with pytest.raises(ValueError, match=r'epochs are \(1, 2\), wanted \(1, 3\)'):
    runs.run(_TASK, budget, str(tmp_path))
  found = runs.run(_TASK, budget._replace(compress_epochs=2), str(tmp_path))
  assert found == {'dense_epochs': 1, 'compress_epochs': 2}


def test_pictures_show_what_is_there():
  figure = figures.draw_accuracy(tables.summarize(_RESULTS))
  assert len(figure.axes) == 1
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert sorted(names) == sorted(
    ['ours', 'plain ternary STE', 'binary (BWN)', 'dense']
  )
  row = {
    'epoch': 1,
    'phase': 'ternary',
    'cosine_distance': {'a': 0.25, 'b': 0.75},
    'ste_bias': {'a': 0.5, 'b': 0.1},
  }
  traces = [
    _result(method, 0.9) | {'history': [row, row | {'epoch': 2}]}
    for method in ('hq', 'plain')
  ]
  figure = figures.draw_bias(traces)
  assert len(figure.axes) == 4
  black = figure.axes[0].lines[-1]
  assert black.get_ydata().tolist() == [0.5, 0.5]
  (ours, plain) = tables.make_traces(traces)
  assert (ours['method'], plain['method']) == ('hq', 'plain')
  assert ours['ste_bias'] == pytest.approx(0.3)
  assert ours['cosine_distance'] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_reduced_benchmark(tmp_path):
  words = [
    *(sys.executable, '-m', 'benchmarks.accuracy'),
    *('--sets', 'digits', '--networks', 'mlp', '--ratios', '40'),
    *('--methods', 'hq', 'plain', '--seeds', '0'),
    *('--epochs_fraction', '0.05', '--traces', '1'),
    *('--workdir', str(tmp_path / 'out')),
  ]
  # Short runs: most of the time compiles.
  env = os.environ | {'XLA_FLAGS': compiling.QUICK_FLAGS}
  done = subprocess.run(
    words,
    cwd=processes.ROOT,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  (cell,) = json.loads(done.stdout.splitlines()[-1])
  assert (cell['ratio'], cell['seeds']) == (40.0, 1)
  assert set(cell['rivals']) == {'plain'}
  found = json.loads((tmp_path / 'out' / 'results.json').read_text())
  assert found['cells'] == [cell]
  for method in found['methods']:
    if method['method'] != 'dense':
      assert method['ratio'] == 40.0
      assert 0.2 < method['mean'] <= 1.0
  for name in ('accuracy.png', 'bias.png'):
    with Image.open(tmp_path / 'out' / name) as image:
      assert image.size[0] > 300
  # What is there is not run again.
  before = {
    path: path.stat().st_mtime_ns
    for path in (tmp_path / 'out' / 'results').iterdir()
  }
  again = subprocess.run(
    words, cwd=processes.ROOT, capture_output=True, text=True, check=True
  )
  assert again.stdout == done.stdout
  assert before == {path: path.stat().st_mtime_ns for path in before}
  assert report.make(str(tmp_path / 'out')) == found
