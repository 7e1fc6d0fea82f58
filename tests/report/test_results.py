"""The numbers of a report, against what was worked out by hand."""

import json
import math
import os

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.core import qtensors
from hq_jax.report import results
from tests.report import run_records


def _make(inputs):
  return run_records.summarize(inputs)[0]


def test_numbers_by_hand(tiny):
  report = _make(tiny)
  # The inputs give 40 dense bytes and 2 weights for each byte of the file.
  assert report['file_bytes'] == os.path.getsize(tiny.file_path)
  assert report['ratio'] == 40.0
  assert report['bits_per_weight'] == 4.0
  assert report['resident_bytes'] == 4 * 1 + 2 * 2
  assert report['dense_accuracy'] == 0.75
  assert report['ternary_accuracy'] == 0.625
  assert report['file_accuracy'] == 0.5
  assert report['file_loss'] == 1.25
  assert report['num_examples'] == 8
  assert (report['step'], report['seed'], report['commit']) == (100, 7, 'abc')
  assert (report['model'], report['file']) == ('net', 'tiny.hq')


def test_layer_by_hand(tiny):
  (layer,) = _make(tiny)['layers']
  assert layer['path'] == 'params/k'
  assert layer['shape'] == [2, 2]
  assert layer['zeros'] == 0.5
  assert layer['entropy_bits'] == 1.5
  # A table of 5 bytes, a stream of 5, a plane of 2 bytes, and 4 of DEFLATE.
  assert layer['bytes'] == 16
  assert layer['bits_per_weight'] == 32.0


def test_bytes_add_up(odd):
  report = _make(odd)
  assert sum(report['parts'].values()) == report['file_bytes']
  layers = sum(layer['bytes'] for layer in report['layers'])
  assert layers + report['container_bytes'] == report['file_bytes']
  parts = report['parts']
  assert report['container_bytes'] == parts['preamble'] + parts['header']


def test_every_tensor_has_a_row_and_kernels_are_marked(usual):
  layers = _make(usual)['layers']
  kernels = {x['path'] for x in layers if x['is_kernel']}
  assert kernels == {f'params/{path}' for path in usual.dense_kernels}
  others = [x for x in layers if not x['is_kernel']]
  assert len(others) == len(kernels)
  assert all(x['cosine_distance_end'] is None for x in others)


def test_distances_are_those_at_the_ends_of_dense_phase_and_run(tiny):
  found = (0.25, 0.24, 0.03, 0.05)
  rows = [
    row | {'cosine_distance': {'k': distance}}
    for row, distance in zip(tiny.history, found, strict=True)
  ]
  assert [row['phase'] for row in rows] == [
    'dense',
    'dense',
    'prune',
    'ternary',
  ]
  report = _make(tiny._replace(history=rows))
  assert report['layers'][0]['cosine_distance_start'] == 0.24
  assert report['layers'][0]['cosine_distance_end'] == 0.05
  assert report['cosine_distance'] == {'k': 0.05}
  without = _make(tiny._replace(history=rows[2:]))
  assert without['layers'][0]['cosine_distance_start'] is None
  assert without['layers'][0]['cosine_distance_end'] == 0.05
  nothing = _make(tiny._replace(history=[]))
  assert (nothing['step'], nothing['history']) == (0, [])
  assert nothing['cosine_distance'] == {}
  assert nothing['layers'][0]['cosine_distance_end'] is None


def test_history_holds_means_over_kernels(make):
  shapes = {'a/kernel': (2, 2), 'b/kernel': (4, 4)}
  inputs = make(shapes=shapes, phases={'ternary': 1})
  row = inputs.history[0] | {
    'cosine_distance': {'a/kernel': 0.25, 'b/kernel': 0.75},
    'sparsity': {'a/kernel': 0.5, 'b/kernel': None},
  }
  (summary,) = _make(inputs._replace(history=[row]))['history']
  assert summary['mean_cosine_distance'] == 0.5
  assert summary['mean_sparsity'] == 0.5  # Of those that there are.
  assert 'cosine_distance' not in summary
  assert summary['test_loss'] == row['test_loss']
  row['sparsity'] = {'a/kernel': None, 'b/kernel': None}
  (summary,) = _make(inputs._replace(history=[row]))['history']
  assert summary['mean_sparsity'] is None


def test_nan_becomes_null(tiny):
  nan = {'train_loss': math.nan, 'test_loss': math.inf}
  rows = [*tiny.history[:-1], tiny.history[-1] | nan]
  evaluation = tiny.file | {'loss': np.float32('nan')}
  config = {
    'limit': -math.inf,
    'widths': (1, np.int64(2)),
    'flag': np.bool_(True),
  }
  inputs = tiny._replace(history=rows, file=evaluation, config=config)
  report = json.loads(json.dumps(_make(inputs), allow_nan=False))
  assert report['history'][-1]['train_loss'] is None
  assert report['history'][-1]['test_loss'] is None
  assert report['history'][0]['test_loss'] == tiny.history[0]['test_loss']
  assert report['file_loss'] is None
  assert report['config'] == {'limit': None, 'widths': [1, 2], 'flag': True}


def test_what_is_not_plain_is_named(tiny):
  inputs = tiny._replace(config={'model': {'dtype': np.zeros}})
  with pytest.raises(ValueError, match=r'^config\.model\.dtype is <'):
    _make(inputs)


def test_resident_bytes_counts_each_type(usual):
  codes = np.zeros((3, 5, 2), np.int8)
  found = {
    'a': qtensors.TernaryTensor(codes, np.ones((1, 1, 2), np.float32)),
    'b': qtensors.TernaryTensor(codes),
    'c': np.zeros(7, np.float16),
    'd': np.zeros(3, np.int64),
    'e': qtensors.Int8Tensor(codes, np.ones(2, np.float16)),
    'f': qtensors.Int8Tensor(codes),
  }
  model = artifact.Artifact('', {}, (), {}, (), found, {})
  expected = (30 + 2 * 4) + 30 + 7 * 2 + 3 * 8 + (30 + 2 * 2) + 30
  assert results.count_resident_bytes(model) == expected


def test_kernels_are_in_the_order_of_the_network(usual):
  shapes = {path: kernel.shape for path, kernel in usual.dense_kernels.items()}
  order = results.sort_kernels(shapes)
  assert order[0] == 'conv_stem/kernel'
  assert order[-1] == 'head/kernel'
  assert order[1:-1] == sorted(order[1:-1])
  assert len(order) == len(shapes)
  layers = dict.fromkeys(('fc10', 'fc9', '7', 'a2b11', 'a2b3'), (2, 2))
  assert results.sort_kernels(layers) == ['7', 'a2b3', 'a2b11', 'fc9', 'fc10']
