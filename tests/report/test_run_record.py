"""Inputs that are not whole are refused, each by its name."""

import numpy as np
import pytest

from hq_jax.report import run_record as inputs_lib

_NAN = np.full((2, 2), np.nan, np.float32)


def _row(inputs, **fields):
  return {'history': [inputs.history[0] | fields]}


def _without(mapping, name):
  return {key: value for key, value in mapping.items() if key != name}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda i: {'dense_bytes': 0}, 'dense_bytes: got 0'),
    (lambda i: {'num_weights': 1.5}, 'num_weights: got 1.5'),
    (lambda i: {'dense_kernels': {}}, 'dense_kernels: got none'),
    (lambda i: {'latent_kernels': {}}, "latent_kernels: 'k' is only in one"),
    (
      lambda i: {'latent_kernels': {'k': np.zeros((2, 3))}},
      r"latent_kernels\['k'\]: got shape \(2, 3\), in dense_kernels \(2, 2\)",
    ),
    (
      lambda i: {'dense_kernels': {'k': _NAN}},
      r"dense_kernels\['k'\]: got NaN",
    ),
    (lambda i: {'latent_kernels': {'k': _NAN}}, r"latent_kernels\['k'\]: got"),
    (lambda i: {'dense': _without(i.dense, 'loss')}, "dense: got no 'loss'"),
    (
      lambda i: {'file': i.file | {'accuracy': 97.4}},
      r'file.accuracy: got 97.4, wanted a fraction in \[0, 1\]',
    ),
    (
      lambda i: {'ternary': i.ternary | {'accuracy': float('nan')}},
      'ternary.accuracy: got nan',
    ),
    (lambda i: {'file': i.file | {'loss': 'low'}}, "file.loss: got 'low'"),
    (
      lambda i: {'file': i.file | {'num_examples': 7}},
      r'num_examples: got \[8, 8, 7\]',
    ),
    (
      lambda i: {'history': [_without(i.history[0], 'epoch')]},
      r"history\[0\]: got no 'epoch'",
    ),
    (lambda i: _row(i, phase='warm'), r"history\[0\].phase: got 'warm'"),
    (lambda i: _row(i, step=0), r'history\[0\].step: got 0'),
    (lambda i: _row(i, test_loss='x'), r"history\[0\].test_loss: got 'x'"),
    (
      lambda i: _row(i, cosine_distance={'other': 0.1}),
      r"history\[0\].cosine_distance: 'k' is only in one",
    ),
    (
      lambda i: _row(i, sparsity={'k': '50%'}),
      r"history\[0\].sparsity\['k'\]: got '50%'",
    ),
    (
      lambda i: {'history': i.history[::-1]},
      'history: epoch 3, step 75 comes after epoch 4, step 100',
    ),
  ],
)
def test_what_is_wrong_is_named(tiny, change, message):
  with pytest.raises(ValueError, match=f'^{message}') as caught:
    inputs_lib.validate(tiny._replace(**change(tiny)))
  assert '\n' not in str(caught.value)


def test_what_is_rare_is_accepted(odd):
  inputs_lib.validate(odd)
