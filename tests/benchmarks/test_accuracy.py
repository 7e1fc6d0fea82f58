"""The benchmark of accuracy: its tasks, its tables, and a run of seconds."""

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
from hq_jax import report as report_lib
from hq_jax.data import sources
from hq_jax.data.sets import datasets
from tests import compiling
from tests import markdown
from tests import runs as processes

_TASK = tasks.Task('digits', 'mlp', 'hq', 40.0, 1e-2, 0)


def _result(method, accuracy, seed=0, ratio=40.0, num_bytes=1000, **fields):
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
    'kind': 'final',
  } | fields


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


def test_a_cell_has_every_rival():
  (cell,) = tables.make_cells(_RESULTS)
  assert cell['dense_mean'] == pytest.approx(0.98)
  assert (cell['ours_mean'], cell['seeds']) == (pytest.approx(0.97), 2)
  assert cell['ours_se'] == pytest.approx(0.01)
  # Seed by seed: 0.01 and 0.03 ahead, so 0.02 +- 0.01; 0.06 and 0.02.
  plain, binary = cell['rivals']['plain'], cell['rivals']['binary']
  assert (plain['lead'], plain['se']) == pytest.approx((0.02, 0.01))
  assert plain['lead_in_se'] == pytest.approx(2.0)
  assert (binary['lead'], binary['se']) == pytest.approx((0.04, 0.02))
  assert (plain['mean'], plain['seeds']) == (pytest.approx(0.95), 2)
  # 0.99 and 0.97 are 0.03 ahead of and 0.01 behind 0.96 and 0.98.
  assert cell['dense']['lead'] == pytest.approx(-0.01)
  assert not tables.make_cells(_RESULTS[:4])


def _with_wrong(method, seed, wrong):
  """A result by its wrong images of 100."""
  is_wrong = np.isin(np.arange(100), wrong)
  answers = report_lib.Answers(
    *(np.arange(100), np.zeros(100, np.int32), is_wrong.astype(np.int32)),
    *(np.ones(100), np.ones(100)),
  )
  found = {'accuracy': 1.0 - is_wrong.mean()}
  return _result(method, 0.0, seed) | runs._describe(found, answers)


def test_an_error_has_the_test_images_in_it():
  ours = [_with_wrong('hq', seed, [0, 1]) for seed in (0, 1)]
  theirs = [_with_wrong('plain', seed, [1, 2, 3]) for seed in (0, 1)]
  assert tables.read_wrong(theirs[0]).nonzero()[0].tolist() == [1, 2, 3]
  found = tables.compare(ours, theirs)
  # Both seeds have the same lead; 1, 2 and 3 of 100 images differ by 1.
  differences = np.zeros(100)
  differences[[0, 2, 3]] = -1.0, 1.0, 1.0
  assert found['lead'] == pytest.approx(0.01)
  assert found['se'] == pytest.approx(differences.std(ddof=1) / 10)


def test_methods_without_a_seed_in_common_are_not_compared():
  found = tables.compare([_result('hq', 0.9, 0)], [_result('plain', 0.8, 1)])
  assert found == {'lead': None, 'se': None, 'lead_in_se': None}
  alone = tables.compare([_result('hq', 0.9)], [_result('plain', 0.8)])
  assert (alone['lead'], alone['se']) == (pytest.approx(0.1), None)


def test_a_table_for_each_set_and_network():
  results = [
    *_RESULTS,
    _result('hq', 0.5, ratio=60.0),
    _result('hq', 0.25) | {'network': 'resnet'},
  ]
  text = tables.make_ratio_tables(
    tables.summarize(results), ('dense', 'hq', 'twn')
  )
  first, second = markdown.read_tables(text)
  assert first == [
    ['method', '40x', '60x'],
    ['dense', '98.00 ± 1.00', '98.00 ± 1.00'],
    ['ours', '97.00 ± 1.00', '50.00'],
  ]
  assert second == [['method', '40x'], ['ours', '25.00']]
  heads = [line for line in text.splitlines() if line.endswith(':')]
  assert heads == ['digits, mlp:', 'digits, resnet:']


def test_a_run_takes_as_long_as_those_like_it():
  results = [
    _result('hq', 0.9, seconds=seconds) for seconds in (10.0, 30.0, 20.0)
  ] + [_result('plain', 0.9, seconds=5.0, network='resnet')]
  estimate = lambda **fields: tables.estimate_seconds(
    _TASK._replace(**fields), results
  )
  assert estimate() == 20.0
  assert estimate(method='plain') == 20.0
  assert estimate(network='resnet') == 5.0
  assert estimate(set='glyphs/16', network='vit', method='twn') == 15.0
  assert tables.estimate_seconds(_TASK, []) == 1.0


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
  key = 'digits', 'mlp', 'hq', 40.0
  assert tables.choose_rates(results) == {key: 1e-2}
  # Two seeds at 3e-3: 0.9 and 1.0, the mean of which is as good, and smaller.
  second = _result('hq', 1.0, seed=1) | {'rate': 3e-3}
  assert tables.choose_rates([*results, second]) == {key: 3e-3}
  # Each size has a search of its own.
  other = _result('hq', 0.1, ratio=60.0) | {'rate': 7e-3}
  found = tables.choose_rates([*results, other])
  assert found == {key: 1e-2, (*key[:3], 60.0): 7e-3}


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


def test_what_was_not_searched_takes_the_nearest_rate():
  rates = {
    ('digits', 'mlp', 'hq', 40.0): 0.5,
    ('digits', 'mlp', 'hq', 60.0): 0.25,
    ('digits', 'mlp', 'twn', 40.0): 0.125,
  }
  find = lambda *key: accuracy.find_rate(rates, key)
  assert find('digits', 'mlp', 'hq', 60.0) == 0.25
  assert find('digits', 'mlp', 'hq', 100.0) == 0.25
  assert find('digits', 'mlp', 'hq', 30.0) == 0.5
  assert find('glyphs/16', 'resnet', 'twn', 60.0) == 0.125


def test_a_search_goes_on_until_its_best_rate_is_inside():
  run = lambda *found: [
    _result('hq', value, rate=rate) for rate, value in found
  ]
  next_rates = lambda results: [task.rate for task in accuracy.go_on(results)]
  first = [(7e-3, 0.7), (1.5e-2, 0.8), (3e-2, 0.6)]
  assert not next_rates(run(*first))
  assert next_rates(run(*first[:2], (3e-2, 0.9))) == [6e-2] * 3  # A seed each.
  assert next_rates(run((7e-3, 0.9), *first[1:])) == [3e-3] * 3
  # The ladder has an end.
  assert not next_rates(run((0.25, 0.5), (0.5, 0.6)))


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
  methods, ratios = list(tasks.METHODS), [40.0, 60.0]
  keys = accuracy.make_keys(cells, methods, ratios, ratios)
  found = accuracy.make_searches(keys)
  wanted = [('dense', 0.0), *itertools.product(tasks.METHODS, ratios)]
  for cell, key in itertools.product(cells, wanted):
    here = [(t.rate, t.seed) for t in found if t[:4] == (*cell, *key)]
    seeds = [100 + x for x in range(tasks.BUDGETS[cell].num_searches)]
    assert here == list(itertools.product(tasks.FIRST_RATES, seeds))
  assert {task.kind for task in found} == {'search'}
  names = [task.name for task in found]
  assert len(set(names)) == len(names)


def test_parts_are_run_at_their_own_ratios():
  cell = 'digits', 'mlp'
  rates = {(*cell, 'hq', 30.0): 0.5, (*cell, 'dense', 0.0): 0.25}
  methods = ['hq', 'hq_tree']
  keys = accuracy.make_keys([cell], methods, [30.0], [40.0, 60.0])
  found = accuracy.make_finals(keys, [0, 1], rates)
  kinds = [(t.method, t.ratio, t.rate, t.kind) for t in found]
  assert kinds.count(('dense', 0.0, 0.25, 'final')) == 2
  assert kinds.count(('hq', 30.0, 0.5, 'final')) == 2
  assert kinds.count(('hq_tree', 40.0, 1.0, 'final')) == 2
  assert kinds.count(('hq_tree', 60.0, 1.0, 'final')) == 2
  assert len(kinds) == 8
  # All have a first seed before any has a second.
  assert [task.seed for task in found[:4]] == [0] * 4


@pytest.mark.slow
def test_a_size_is_that_of_networks_of_several_widths(capsys):
  methods = ['hq', 'plain', 'binary']
  keys = accuracy.make_sized_keys(
    [('digits', 'mlp')], methods, [8000.0], [20.0, 40.0, 900.0]
  )
  dataset = datasets.load('digits')
  by_method = {}
  for key in keys:
    task = tasks.Task(*key, 1.0, 0)
    size = tasks.count_bytes(task, tasks.get_budget(task), dataset)
    by_method.setdefault(task.method, []).append((task.ratio, size))
    # The next wider network is too large.
    wanted = 8000.0 * (round(task.ratio, -1) or 1.0)
    assert 0.9 * wanted < size <= wanted
    assert size == pytest.approx(8000.0 * (task.ratio or size / 8000.0))
  ratios = {
    method: [round(ratio, -1) for ratio, _ in found]
    for method, found in by_method.items()
  }
  # Bits that are given choose the width themselves.
  wanted = {'dense': [0.0], 'hq': [20.0, 40.0], 'plain': [20.0, 40.0]}
  assert ratios == wanted | {'binary': [20.0]}
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2
  assert all('left out, it does not get 900x smaller' in line for line in said)


def _sized(method, accuracy, part, ratio, num_bytes=8000, **fields):
  return _result(method, accuracy, ratio=ratio, **fields) | {
    'network': f'mlp@{part}',
    'reference_bytes': num_bytes * (ratio or 1.0),
    'file_bytes': num_bytes - 50,
  }


def test_each_method_has_the_network_that_is_best_at_its_size():
  searched = [
    _sized('hq', 0.90, 300, 20.0),
    _sized('hq', 0.95, 600, 40.0),
    _sized('hq', 0.99, 600, 40.0, rate=7e-3),
    _sized('hq', 0.91, 300, 40.0, num_bytes=4000),
    _sized('plain', 0.96, 300, 20.0),
    _sized('plain', 0.95, 600, 40.0),
    _result('hq', 0.97) | {'reference_bytes': 320_000},
  ]
  where = 'digits', 'mlp@600', 'hq', 40.0
  assert tables.choose_networks(searched) == {
    where,
    ('digits', 'mlp@300', 'hq', 40.0),
    ('digits', 'mlp@300', 'plain', 20.0),
  }


def test_a_table_by_bytes():
  results = [
    _sized('hq', 0.96, 600, 40.0),
    _sized('hq', 0.98, 600, 40.0, seed=1),
    _sized('plain', 0.95, 300, 20.0),
    _sized('hq', 0.5, 300, 40.0, num_bytes=4000),
    _sized('dense', 0.75, 20, 0.0, num_bytes=7900),
    _result('hq', 0.25),
  ]
  rows = tables.make_sizes(results)
  by_key = {(row['method'], row['bytes']): row for row in rows}
  assert set(by_key) == {
    *(('hq', 8000), ('plain', 8000), ('hq', 4000), ('dense', 8000))
  }
  plain = by_key['plain', 8000]
  assert plain['ours']['lead'] == pytest.approx(0.01)
  assert (plain['network'], plain['file_bytes']) == ('mlp@300', 7950)
  (table,) = markdown.read_tables(tables.make_size_tables(rows))
  assert table == [
    ['method', '4,000', '8,000'],
    ['dense', '', '75.00 (1x)'],
    ['ours', '50.00 (41x)', '97.00 ± 1.00 (40x)'],
    ['plain STE, all layers ternary', '', '95.00 (20x)'],
  ]
  figure = figures.draw_sizes(rows)
  (axes,) = figure.axes
  assert axes.get_xscale() == 'log'
  names = {text.get_text() for text in figure.legends[0].get_texts()}
  assert names == {'ours', 'dense', 'plain STE, all layers ternary'}


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
    rises = task.method.startswith('hq') or 'rise' in task.method
    assert bool(config.prune.epochs) == rises


def test_dense_has_them_too():
  task = tasks.Task('digits', 'mlp', 'dense', 0.0, 0.25, 0)
  config = tasks.make_config(task, tasks.Budget(2, 5, 64, {}), {})
  assert (config.dense.epochs, config.dense.learning_rate) == (7, 0.25)


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
@pytest.mark.parametrize(
  'method', ['binary', 'uniform', 'uniform_8', 'twn', 'vector']
)
def test_a_rival_is_as_large_as_fits(method):
  task = _TASK._replace(method=method)
  budget = tasks.get_budget(task)
  dataset = datasets.load('digits')
  wanted = tasks.count_bytes(task, budget, dataset) / 40.0
  fitted = tasks.fit(task, budget, dataset)
  plan = tasks._predict(task, budget, dataset, fitted)
  num_bytes = tasks._get_bytes(task, budget, dataset, fitted, plan)
  # Codebooks are of a few sizes alone.
  least = 0.95 if method == 'vector' else 0.99
  assert least * wanted < num_bytes <= wanted
  # A tenth too large in the search: a tenth smaller, or as little as that.
  smaller = tasks.fit(task, budget, dataset, excess=1.1)
  plan = tasks._predict(task, budget, dataset, smaller)
  num_bytes = tasks._get_bytes(task, budget, dataset, smaller, plan)
  assert (least - 0.01) * wanted < 1.1 * num_bytes <= wanted


@pytest.mark.slow
def test_a_ratio_that_cannot_be_reached_is_refused():
  task = _TASK._replace(method='binary', ratio=1e6)
  with pytest.raises(ValueError, match='ratio is 1e\\+06, wanted one that'):
    tasks.fit(task, tasks.get_budget(task), datasets.load('digits'))


def test_results_of_other_epochs_are_refused(tmp_path):
  path = tmp_path / 'results' / f'{_TASK.name}.json'
  path.parent.mkdir()
  path.write_text(json.dumps({'dense_epochs': 1, 'compress_epochs': 2}))
  budget = tasks.Budget(1, 3, 64, {})
  with pytest.raises(ValueError, match=r'epochs are \(1, 2\), wanted \(1, 3\)'):
    runs.run(_TASK, budget, str(tmp_path))
  found = runs.run(_TASK, budget._replace(compress_epochs=2), str(tmp_path))
  assert found == {'dense_epochs': 1, 'compress_epochs': 2}


def test_pictures_show_what_is_there():
  figure = figures.draw_accuracy(tables.summarize(_RESULTS))
  assert len(figure.axes) == 1
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert sorted(names) == sorted(
    ['ours', 'plain STE, all layers ternary', 'binary (BWN)', 'dense']
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
  (cell,) = json.loads(done.stdout.splitlines()[-1])['cells']
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
