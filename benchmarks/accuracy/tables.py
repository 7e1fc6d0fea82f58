"""Tables of the runs: means, standard errors, the best baseline."""

import base64
from collections.abc import Mapping, Sequence
import glob
import json
import math
import os
from typing import Any, NamedTuple
import zlib

import numpy as np
import tabulate

from benchmarks.accuracy import tasks

NAMES = {
  'dense': 'dense',
  'hq': 'ours',
  'plain': 'plain STE, all layers ternary',
  'plain_int8': 'plain STE, first and last int8',
  'plain_erk': 'plain STE, Erdos-Renyi-kernel',
  'plain_planned': 'plain STE, planned as ours',
  'vector': 'vector quantization',
  'binary': 'binary (BWN)',
  'uniform': '2-bit (LSQ)',
  'uniform_4': '4-bit (LSQ), narrow',
  'uniform_8': '8-bit (LSQ), narrow',
  'twn': 'TWN',
  'ttq': 'TTQ',
  'parq': 'PARQ',
  'sphere': 'planned, with the sphere',
  'rise': 'planned, with the rising sparsity',
  'sphere_rise': 'planned, with both',
  'rise_reinit': 'planned, rising sparsity and reinitialization',
  'hq_masked': 'ours, masked gradients while pruning',
  'hq_int8': 'ours, not planned: first and last int8',
  'hq_tree': 'ours, one threshold for all layers',
  'hq_distill': 'ours, with distillation',
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


def get_key(result: Mapping[str, Any]) -> Key:
  """The set, network, method and ratio of a result."""
  names = 'set', 'network', 'method', 'ratio'
  return tuple(result[name] for name in names)  # type: ignore[return-value]


def estimate_seconds(
  task: tasks.Task, results: Sequence[Mapping[str, Any]]
) -> float:
  """How long a run takes: the median of those that are most like it."""
  alike: Sequence[Mapping[str, Any]] = results
  for name in ('set', 'network', 'method'):
    closer = [x for x in alike if x[name] == getattr(task, name)]
    alike = closer or alike
  return float(np.median([x['seconds'] for x in alike])) if alike else 1.0


def choose_rates(results: Sequence[Mapping[str, Any]]) -> dict[Key, float]:
  """The rate of the best held-out accuracy, by set, network, method and ratio.

  What several seeds found is the mean; of equals it is the smaller rate.
  """
  found: dict[Key, dict[float, list[float]]] = {}
  for result in results:
    by_rate = found.setdefault(get_key(result), {})
    by_rate.setdefault(result['rate'], []).append(result['accuracy'])
  # Sums of the same accuracies in another order are equal too.
  get_mean = lambda accuracies: round(float(np.mean(accuracies)), 9)
  return {
    key: max(sorted(by_rate), key=lambda rate: get_mean(by_rate[rate]))
    for key, by_rate in found.items()
  }


def get_size(result: Mapping[str, Any]) -> Key:
  """The set, family of networks, method and bytes wanted of a result."""
  family = tasks.get_family(result['network'])
  num_bytes = result['reference_bytes'] / (result['ratio'] or 1.0)
  return result['set'], family, result['method'], round(num_bytes)


def choose_networks(results: Sequence[Mapping[str, Any]]) -> set[Key]:
  """Of those of each size, the network of the best held-out accuracy."""
  accuracies: dict[Key, list[float]] = {}
  by_size: dict[Key, set[Key]] = {}
  rates = choose_rates(results)
  for result in results:
    if is_sized(result) and rates[key := get_key(result)] == result['rate']:
      accuracies.setdefault(key, []).append(result['accuracy'])
      by_size.setdefault(get_size(result), set()).add(key)
  mean = lambda key: float(np.mean(accuracies[key]))
  return {max(sorted(keys), key=mean) for keys in by_size.values()}


def is_sized(result: Mapping[str, Any]) -> bool:
  """Whether a run is one at given bytes, of a network of any width."""
  return '@' in result['network']


def at_best_rates(
  results: Sequence[dict[str, Any]], searched: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Without what was run at a rate that a longer search has overtaken."""
  rates = choose_rates(searched)
  return [
    result
    for result in results
    if rates.get(get_key(result), result['rate']) == result['rate']
  ]


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[Key, Summary]:
  """Means over seeds, by set, network, method and ratio."""
  groups: dict[Key, list[Mapping[str, Any]]] = {}
  for result in results:
    groups.setdefault(get_key(result), []).append(result)
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


def make_cells(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Ours beside every baseline, for each set, network and ratio.

  Accuracies are fractions; see `compare` for the errors.
  """
  groups: dict[Key, list[Mapping[str, Any]]] = {}
  for result in results:
    groups.setdefault(get_key(result), []).append(result)
  cells = []
  for (*where, method, ratio), ours in sorted(groups.items()):
    if is_sized(ours[0]):
      continue
    dense = groups.get((*where, 'dense', 0.0))
    rivals = {
      name: groups[key]
      for name in tasks.RIVALS
      if (key := (*where, name, ratio)) in groups
    }
    if method != 'hq' or dense is None or not rivals:
      continue
    found = _summarize(ours)
    cells.append(
      {
        'set': where[0],
        'network': where[1],
        'ratio': ratio,
        'seeds': found.seeds,
        'ours_mean': found.mean,
        'ours_se': found.standard_error,
        'dense_mean': _summarize(dense).mean,
        'dense': compare(ours, dense),
        'rivals': {
          name: {
            'mean': _summarize(group).mean,
            'seeds': len(group),
            'file_bytes': _summarize(group).file_bytes,
          }
          | compare(ours, group)
          for name, group in rivals.items()
        },
      }
    )
  return cells


def make_sizes(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Each method at each number of bytes, in the network that it has chosen.

  Dense networks are as large as they are: theirs are the nearest bytes. The
  lead is that of ours; see `compare`.
  """
  groups: dict[Key, list[Mapping[str, Any]]] = {}
  for result in filter(is_sized, results):
    groups.setdefault(get_size(result), []).append(result)
  rows = []
  for (*where, method, size), group in sorted(groups.items()):
    sizes = {
      key[3] for key in groups if list(key[:2]) == where and key[2] != 'dense'
    }
    wanted = min(sizes, key=lambda x, size=size: abs(math.log(x / size)))
    found = _summarize(group)
    ours = groups.get((*where, 'hq', wanted), [])
    rows.append(
      {'set': where[0], 'family': where[1], 'method': method, 'bytes': wanted}
      | {
        'network': group[0]['network'],
        'float_bytes': group[0]['reference_bytes'],
        'file_bytes': found.file_bytes or size,
        'rate': found.rate,
        'mean': found.mean,
        'se': found.standard_error,
        'seeds': found.seeds,
        'ours': compare(ours, group),
      }
    )
  return rows


def make_size_tables(rows: Sequence[Mapping[str, Any]]) -> str:
  """Markdown tables by bytes, one for each set and family of networks."""
  texts = []
  for where in sorted({(row['set'], row['family']) for row in rows}):
    here = [row for row in rows if (row['set'], row['family']) == where]
    sizes = sorted({row['bytes'] for row in here})
    found = {(row['method'], row['bytes']): row for row in here}
    lines = []
    for method in NAMES:
      cells = [found.get((method, size)) for size in sizes]
      if any(cells):
        lines.append([NAMES[method], *map(_format_size, cells)])
    heads = ['method', *(f'{size:,}' for size in sizes)]
    table = tabulate.tabulate(lines, heads, 'github', disable_numparse=True)
    texts.append(f'{where[0]}, {where[1]}, by bytes of the file:\n\n{table}')
  return '\n\n'.join(texts)


def _format_size(row: Mapping[str, Any] | None) -> str:
  if row is None:
    return ''
  ratio = row['float_bytes'] / row['file_bytes']
  return f'{format_mean(row["mean"], row["se"])} ({ratio:.0f}x)'


def compare(
  ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """The lead of ours over another method, with its standard error.

  Runs of the same seed begin with the same weights and see the same images: the
  lead is the mean of their differences. Its error is the root of two squares:
  that of the mean over seeds, and that of the mean over test images, whose
  differences are averaged over the seeds; the second, which has a part of the
  first in it, is what another set of images would change. With one seed there
  is none.
  """
  by_seed = {result['seed']: result for result in theirs}
  pairs = [(x, by_seed[x['seed']]) for x in ours if x['seed'] in by_seed]
  if not pairs:
    return {'lead': None, 'se': None, 'lead_in_se': None}
  leads = [x['accuracy'] - y['accuracy'] for x, y in pairs]
  lead, error = float(np.mean(leads)), None
  if len(pairs) > 1:
    error = float(np.std(leads, ddof=1)) / math.sqrt(len(pairs))
    if all('wrong' in x for pair in pairs for x in pair):
      by_image = np.mean(
        [read_wrong(y) - read_wrong(x) for x, y in pairs], axis=0
      )
      error = math.hypot(error, by_image.std(ddof=1) / len(by_image) ** 0.5)
  in_errors = lead / error if error else None
  return {'lead': lead, 'se': error, 'lead_in_se': in_errors}


def read_wrong(result: Mapping[str, Any]) -> np.ndarray:
  """Whether each test image is wrong, float64 0 or 1."""
  packed = zlib.decompress(base64.b64decode(result['wrong']))
  bits = np.unpackbits(np.frombuffer(packed, np.uint8))
  return bits[: result['num_images']].astype(np.float64)


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


def make_ratio_tables(
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
  return format_mean(*found[:2]) if found else ''


def format_mean(mean: float, error: float | None) -> str:
  """A mean and its standard error, in percent."""
  if error is None:
    return f'{100 * mean:.2f}'
  return f'{100 * mean:.2f} ± {100 * error:.2f}'
