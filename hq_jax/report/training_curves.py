"""The curves of a report's page: accuracy, loss and cosine distance."""

from collections.abc import Mapping, Sequence
import html
import math
from typing import Any

import numpy as np

from hq_jax.report import curves
from hq_jax.report import results
from hq_jax.report import run_record
from hq_jax.report import wording


def draw_all(inputs: run_record.Inputs) -> str:
  """Three figures, or a line where there is no history."""
  history, quantizer = inputs.history, wording.get_quantizer(inputs.config)
  if not history:
    return '<p>No epoch was recorded.</p>'
  phases = [
    quantizer if row['phase'] == 'ternary' else row['phase'] for row in history
  ]
  figures = [
    _draw_accuracy(inputs, phases),
    _draw_loss(history, phases),
    _draw_distance(inputs, phases, quantizer),
  ]
  return '\n'.join(['<div class="curves">', *figures, '</div>'])


def _draw_accuracy(inputs: run_record.Inputs, phases: Sequence[str]) -> str:
  history = inputs.history
  ends = {'dense': inputs.dense['accuracy'], 'file': inputs.file['accuracy']}
  name = f'{run_record.get_split(history[0])}_accuracy'
  tests = [results.to_float(row[name]) for row in history]
  found = [x for x in tests if math.isfinite(x)]
  # The epochs that are far below the rest are cut off.
  low = min([*ends.values(), *([np.quantile(found, 0.1)] if found else [])])
  svg = curves.draw(
    'Accuracy over the epochs',
    phases,
    _get_both(history, 'accuracy'),
    curves.Axis(max(low - 0.3 * max(1 - low, 0.02), 0.0), 1.0),
    first_epoch=history[0]['epoch'],
    format_value=lambda x: f'{100 * x:g}%',
    levels=list(ends.items()),
  )
  splits = _name_splits(history)
  where = ' of the test' if splits['test'] != 'test' else ''
  named = {x: f'{x} {accuracy:.2%}{where}' for x, accuracy in ends.items()}
  return _frame('Accuracy', splits | named, svg)


def _draw_loss(
  history: Sequence[Mapping[str, Any]], phases: Sequence[str]
) -> str:
  losses = _get_both(history, 'loss')
  svg = curves.draw(
    'Loss over the epochs',
    phases,
    losses,
    curves.fit_axis([x for curve in losses for x in curve.values]),
    first_epoch=history[0]['epoch'],
  )
  return _frame('Loss', _name_splits(history), svg)


def _draw_distance(
  inputs: run_record.Inputs, phases: Sequence[str], quantizer: str
) -> str:
  history = inputs.history
  distances = results.get_distances(history, list(inputs.dense_kernels))
  to_list = lambda values: values.filled(np.nan).tolist()
  low, high = to_list(distances.min(axis=1)), to_list(distances.max(axis=1))
  svg = curves.draw(
    'Cosine distance over the epochs',
    phases,
    [curves.Curve('mean', to_list(distances.mean(axis=1)))],
    curves.fit_axis(high, from_zero=True),
    first_epoch=history[0]['epoch'],
    band=list(zip(low, high, strict=True)),
  )
  legend = {'mean': 'mean and range of kernels'}
  return _frame(f'Cosine distance to {quantizer}', legend, svg)


def _get_both(
  history: Sequence[Mapping[str, Any]], name: str
) -> list[curves.Curve]:
  return [
    curves.Curve(kind, [row[f'{split}_{name}'] for row in history])
    for kind, split in _name_splits(history).items()
  ]


def _name_splits(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """What is drawn as the curves `train` and `test`."""
  return {'train': 'train', 'test': run_record.get_split(history[0])}


def _frame(title: str, legend: Mapping[str, str], svg: str) -> str:
  """A figure with a legend: class of a curve -> what it is called."""
  dashed = {'dense', 'file'}
  spans = [
    f'<span class="curve-{kind}">{"╌" if kind in dashed else "━"}'
    f' {html.escape(name)}</span>'
    for kind, name in legend.items()
  ]
  return (
    f'<figure><figcaption><b>{html.escape(title)}</b> {" ".join(spans)}'
    f'</figcaption>\n{svg}</figure>'
  )
