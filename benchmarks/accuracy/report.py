"""Tables, pictures and `results.json` of all that was run.

  python -m benchmarks.accuracy.report --workdir=runs/accuracy

The benchmark ends with it; alone, it shows what is there so far.
"""

import argparse
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
  """Finals and traces."""
  searched = tables.read(root, 'search')
  return [
    tables.at_best_rates(tables.read(root, kind), searched)
    for kind in ('final', 'trace')
  ]


def _make(results, traces) -> dict[str, Any]:
  summaries = tables.summarize(results)
  return {
    'cells': tables.make_cells(summaries),
    'methods': [
      dict(zip(('set', 'network', 'method', 'ratio'), key, strict=True))
      | found._asdict()
      for key, found in sorted(summaries.items())
    ],
    'bias': tables.make_traces(traces),
    'runs': len(results),
    'commits': sorted({result['commit'] for result in results}),
    'hardware': sorted({str(result['hardware']) for result in results}),
  }


def write(root: str) -> None:
  """Writes `results.json` and the pictures, and prints the tables.

  The last line that it prints is a JSON object of the cells.
  """
  results, traces = _read(root)
  found, summaries = _make(results, traces), tables.summarize(results)
  with drawing.style():
    pictures = {}
    if any(key[2] != 'dense' for key in summaries):
      pictures['accuracy.png'] = figures.draw_accuracy(summaries)
    if traces:
      pictures['bias.png'] = figures.draw_bias(traces)
    contents = {name: drawing.to_png(x) for name, x in pictures.items()}
  text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False)
  contents['results.json'] = f'{text}\n'.encode()
  for name, content in contents.items():
    atomic_write.write_bytes(os.path.join(root, name), content)
  print(tables.make_tables(summaries, ('dense', 'hq', *tasks.RIVALS)))
  print()
  print(tables.make_tables(summaries, ('hq', 'plain', *tasks.ABLATIONS)))
  print()
  print(json.dumps(found['cells'], sort_keys=True))


def main() -> None:
  """Reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/accuracy')
  write(parser.parse_args().workdir)


if __name__ == '__main__':
  main()
