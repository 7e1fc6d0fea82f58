"""The runs of configs/digits.py that the README quotes.

  python -m benchmarks.digits_runs --workdir=runs/readme

Each seed at each ratio, for each sparsity allocation, is a run of its
own, in a folder of its own below the workdir, as `python -m hq_jax.main` would
do it; what was run before is not run again. Prints a Markdown table, and as its
last line a JSON object.
"""

import argparse
from collections.abc import Sequence
import itertools
import json
import os
from typing import Any

from absl import logging
import numpy as np
import tabulate

from configs import digits
from hq_jax.training import train


def make_table(reports: Sequence[dict]) -> str:
  """A Markdown table with a row for each run."""
  heads = ['target', 'sparsity allocation', 'seed', 'dense bytes']
  heads += ['`model.hq` bytes', 'ratio', 'dense', 'file']
  rows = [
    [
      f'{r["target_ratio"]:g}x',
      *(r['distribution'], r['seed']),
      *(f'{r["dense_bytes"]:,}', f'{r["file_bytes"]:,}', f'{r["ratio"]:.2f}'),
      *(f'{r["dense_accuracy"]:.1%}', f'{r["file_accuracy"]:.1%}'),
    ]
    for r in reports
  ]
  return tabulate.tabulate(rows, heads, 'github', disable_numparse=True)


def _run(
  workdir: str, ratio: float, distribution: str, seed: int
) -> dict[str, Any]:
  """The report of a run, which is made where it is not there."""
  folder = os.path.join(workdir, f'{ratio:g}x_{distribution}_seed{seed}')
  path = os.path.join(folder, 'report.json')
  if not os.path.exists(path):
    config = digits.get_config(f'ratio={ratio},seed={seed}')
    config.recipe.distribution = distribution
    train.train(config, folder)
  with open(path, encoding='utf-8') as file:
    report = json.load(file)
  return report | {'target_ratio': ratio, 'distribution': distribution}


def main() -> None:
  """Runs, or reads what was run, and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/readme')
  parser.add_argument('--ratio', type=float, nargs='+', default=[30.0, 40.0])
  parser.add_argument('--seed', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--distribution', nargs='+', default=['cosine_distance'])
  arguments = parser.parse_args()
  logging.set_verbosity(logging.WARNING)
  reports: list[dict[str, Any]] = []
  means: dict[str, dict[str, Any]] = {}
  product = itertools.product(arguments.ratio, arguments.distribution)
  for ratio, distribution in product:
    group = [
      _run(arguments.workdir, ratio, distribution, seed)
      for seed in arguments.seed
    ]
    reports += group
    means[f'{ratio:g} {distribution}'] = {
      'dense_accuracy': float(np.mean([r['dense_accuracy'] for r in group])),
      'file_accuracy': float(np.mean([r['file_accuracy'] for r in group])),
      'least_ratio': min(r['ratio'] for r in group),
      'commits': sorted({r['commit'] for r in group}),
    }
  print(make_table(reports))
  print(json.dumps(means, sort_keys=True))


if __name__ == '__main__':
  main()
