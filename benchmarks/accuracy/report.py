"""Tables, pictures and `results.json` of all that was run.

  python -m benchmarks.accuracy.report --workdir=runs/accuracy

The benchmark ends with it; alone, it shows what is there so far.
"""

import argparse
from collections.abc import Mapping
import functools
import json
import os
from typing import Any

from benchmarks.accuracy import figures
from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks
from hq_jax.report import drawing
from hq_jax.runtime import atomic_write


def make(root: str) -> dict[str, Any]:
  """What `results.json` holds."""
  return _make(*_read(root))


def _read(root):
  """Finals and traces at the best rates, and what searched for them."""
  searched = tables.read(root, 'search')
  finals, traces = (
    tables.at_best_rates(tables.read(root, kind), searched)
    for kind in ('final', 'trace')
  )
  chosen = tables.choose_networks(searched)
  finals = [
    result
    for result in finals
    if not tables.is_sized(result) or tables.get_key(result) in chosen
  ]
  return finals, traces, searched


def _make(results, traces, searched) -> dict[str, Any]:
  summaries = _summarize(results)
  return {
    'cells': tables.make_cells(results),
    'sizes': tables.make_sizes(results),
    'methods': [
      dict(zip(('set', 'network', 'method', 'ratio'), key, strict=True))
      | found._asdict()
      for key, found in sorted(summaries.items())
    ],
    'bias': tables.make_traces(traces),
    'runs': [_pack(result) for result in (*searched, *results)],
  }


def _summarize(results):
  return tables.summarize([x for x in results if not tables.is_sized(x)])


def _pack(result: Mapping[str, Any]) -> dict[str, Any]:
  """A run on few lines: what the search got wrong is of no use later."""
  is_final = result['kind'] == 'final'
  return {k: x for k, x in result.items() if k != 'wrong' or is_final}


def unpack(path: str, root: str) -> None:
  """Puts the runs of a `results.json` into a workdir, but those it has."""
  with open(path, encoding='utf-8') as file:
    found = json.load(file)['runs']
  os.makedirs(os.path.join(root, 'results'), exist_ok=True)
  for result in found:
    task = tasks.Task(**{name: result[name] for name in tasks.Task._fields})
    if not os.path.exists(task.get_path(root)):
      data = json.dumps(result, indent=1, sort_keys=True).encode()
      atomic_write.write_bytes(task.get_path(root), data)


def write(root: str) -> None:
  """Writes `results.json` and the pictures, and prints the tables.

  The last line that it prints is a JSON object of the cells and the sizes.
  """
  results, traces, searched = _read(root)
  found = _make(results, traces, searched)
  summaries = _summarize(results)
  with drawing.style():
    pictures = {}
    if any(key[2] != 'dense' for key in summaries):
      pictures['accuracy.png'] = figures.draw_accuracy(summaries)
    if found['sizes']:
      pictures['bytes.png'] = figures.draw_sizes(found['sizes'])
    if traces:
      pictures['bias.png'] = figures.draw_bias(traces)
    contents = {name: drawing.to_png(x) for name, x in pictures.items()}
  to_text = functools.partial(json.dumps, sort_keys=True, allow_nan=False)
  # A line for each row: small, and a change shows what was run.
  join = lambda rows: ',\n'.join(map(to_text, rows))
  text = ',\n'.join(
    f'"{name}": [\n{join(rows)}]' for name, rows in sorted(found.items())
  )
  text = f'{{{text}}}'
  contents['results.json'] = f'{text}\n'.encode()
  for name, content in contents.items():
    atomic_write.write_bytes(os.path.join(root, name), content)
  rivals = 'dense', 'hq', *tasks.RIVALS
  parts = 'hq', 'plain_planned', *tasks.ABLATIONS
  for text in (
    tables.make_ratio_tables(summaries, rivals),
    tables.make_ratio_tables(summaries, parts),
    tables.make_size_tables(found['sizes']),
  ):
    if text:
      print(f'{text}\n')
  rows = {name: found[name] for name in ('cells', 'sizes')}
  print(json.dumps(rows, sort_keys=True))


def main() -> None:
  """Reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/accuracy')
  write(parser.parse_args().workdir)


if __name__ == '__main__':
  main()
