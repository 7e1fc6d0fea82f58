"""Tables of the runs: means, standard errors, the best baseline."""

from collections.abc import Mapping, Sequence
import glob
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np
import tabulate

from benchmarks.accuracy import tasks

NAMES = {
  'dense': 'dense',
  'hq': 'ours',
  'plain': 'plain ternary STE',
  'vector': 'vector quantization',
  'binary': 'binary (BWN)',
  'uniform': '2-bit (LSQ)',
  'twn': 'TWN',
  'hq_no_sphere': 'without the sphere',
  'hq_no_prune': 'without pruning',
  'hq_no_reinit': 'without reinitialization',
  'hq_masked': 'masked gradients while pruning',
  'hq_uniform': 'per-layer sparsity, the same in all',
  'hq_tree': 'one threshold for all layers',
  'hq_distill': 'with distillation',
  'plain_planned': 'plain STE, planned sparsity',
  'plain_distill': 'plain STE, with distillation',
}

Key = tuple[str, str, str, float]


class Summary(NamedTuple):
  """The seeds of a method at a ratio.

  Attributes:
    mean: of the accuracy, a fraction.
    standard_error: of the mean; None for one seed.
    seeds: how many.
    file_bytes: the mean.
    least_ratio: of the seeds' files.
    rate: the learning rate.
  """

  mean: float
  standard_error: float | None
  seeds: int
  file_bytes: float
  least_ratio: float
  rate: float


def read(root: str, kind: str = 'final') -> list[dict[str, Any]]:
  """All results of a kind."""
  results = []
  for path in sorted(
    glob.glob(os.path.join(root, 'results', f'{kind}-*.json'))
  ):
    with open(path, encoding='utf-8') as file:
      results.append(json.load(file))
  return results


def choose_rates(
  results: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str, str], float]:
  """The rate of the best held-out accuracy, by set, network and method.

  What several seeds found is the mean; of equals it is the smaller rate.
  """
  found: dict[tuple[str, str, str], dict[float, list[float]]] = {}
  for result in results:
    key = result['set'], result['network'], result['method']
    by_rate = found.setdefault(key, {})
    by_rate.setdefault(result['rate'], []).append(result['accuracy'])
  # Sums of the same accuracies in another order are equal too.
  get_mean = lambda accuracies: round(float(np.mean(accuracies)), 9)
  return {
    key: max(sorted(by_rate), key=lambda rate: get_mean(by_rate[rate]))
    for key, by_rate in found.items()
  }


def at_best_rates(
  results: Sequence[dict[str, Any]], searched: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Without what was run at a rate that a longer search has overtaken."""
  rates = choose_rates(searched)
  get_key = lambda found: (found['set'], found['network'], found['method'])
  return [
    result
    for result in results
    if rates.get(get_key(result), result['rate']) == result['rate']
  ]


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[Key, Summary]:
  """Means over seeds, by set, network, method and ratio."""
  groups: dict[Key, list[Mapping[str, Any]]] = {}
  for result in results:
    key = (
      result['set'],
      result['network'],
      result['method'],
      result['ratio'],
    )
    groups.setdefault(key, []).append(result)
  return {key: _summarize(group) for key, group in groups.items()}


def _summarize(group: Sequence[Mapping[str, Any]]) -> Summary:
  found = np.array([result['accuracy'] for result in group])
  error = None
  if len(found) > 1:
    error = float(found.std(ddof=1) / math.sqrt(len(found)))
  return Summary(
    float(found.mean()),
    error,
    len(found),
    float(np.mean([result.get('file_bytes', 0) for result in group])),
    min(result.get('file_ratio', 1.0) for result in group),
    group[0]['rate'],
  )


def make_cells(summaries: Mapping[Key, Summary]) -> list[dict[str, Any]]:
  """Ours beside the best baseline, for each set, network and ratio.

  Accuracies are fractions; `margin_in_se` is the difference over the root of
  the sum of both squared standard errors.
  """
  cells = []
  for (set_name, network, method, ratio), ours in sorted(summaries.items()):
    if method != 'hq':
      continue
    get = lambda name, at, where=(set_name, network): summaries.get(
      (*where, name, at)
    )
    dense = get('dense', 0.0)
    rivals = {
      name: found for name in tasks.RIVALS if (found := get(name, ratio))
    }
    if dense is None or not rivals:
      continue
    best = max(rivals, key=lambda name: rivals[name].mean)
    cells.append(
      {
        'set': set_name,
        'network': network,
        'ratio': ratio,
        'seeds': ours.seeds,
        'dense_mean': dense.mean,
        'ours_mean': ours.mean,
        'ours_se': ours.standard_error,
        'rival': best,
        'rival_mean': rivals[best].mean,
        'rival_se': rivals[best].standard_error,
        'rivals': {
          name: {
            'mean': found.mean,
            'se': found.standard_error,
            'file_bytes': found.file_bytes,
            'margin_in_se': _margin(ours, found),
          }
          for name, found in rivals.items()
        },
      }
    )
  return cells


def _margin(ours: Summary, other: Summary) -> float | None:
  if ours.standard_error is None or other.standard_error is None:
    return None
  error = math.hypot(ours.standard_error, other.standard_error)
  return (ours.mean - other.mean) / error if error else None


def make_traces(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Distance, bias and accuracy of each run.

  They are means over the kernels and over the last half of the epochs.
  """
  rows = []
  for result in results:
    history = result['history'][len(result['history']) // 2 :]
    mean = lambda name, rows=history: float(
      np.mean([list(row[name].values()) for row in rows])
    )
    rows.append(
      {name: result[name] for name in ('set', 'network', 'method', 'seed')}
      | {
        'cosine_distance': mean('cosine_distance'),
        'ste_bias': mean('ste_bias'),
        'accuracy': result['accuracy'],
      }
    )
  return rows


def make_tables(
  summaries: Mapping[Key, Summary], methods: Sequence[str]
) -> str:
  """Markdown tables, one for each set with each network."""
  cells = sorted({key[:2] for key in summaries if key[2] != 'dense'})
  tables = [(cell, _make_table(summaries, methods, cell)) for cell in cells]
  return '\n\n'.join(
    f'{set_name}, {network}:\n\n{table}'
    for (set_name, network), table in tables
    if table
  )


def _make_table(
  summaries: Mapping[Key, Summary], methods: Sequence[str], cell: Sequence[str]
) -> str:
  columns = sorted(
    {
      key
      for *where, method, key in summaries
      if where == list(cell) and method in methods and method != 'dense'
    }
  )
  rows = []
  for method in methods:
    ratios = [0.0] * len(columns) if method == 'dense' else columns
    found = [summaries.get((*cell, method, ratio)) for ratio in ratios]
    if any(found):
      rows.append([NAMES[method], *map(_format, found)])
  heads = ['method', *(f'{ratio:g}x' for ratio in columns)]
  if not columns:
    return ''
  return tabulate.tabulate(rows, heads, 'github', disable_numparse=True)


def _format(found: Summary | None) -> str:
  if found is None:
    return ''
  if found.standard_error is None:
    return f'{100 * found.mean:.2f}'
  return f'{100 * found.mean:.2f} ± {100 * found.standard_error:.2f}'
