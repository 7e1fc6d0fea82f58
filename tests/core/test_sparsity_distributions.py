"""Sparsity allocations, and values by path."""

import math

import numpy as np
import pytest

from hq_jax.core import sparsity_distributions

_RESNET = {
  'stem': (3, 3, 3, 64),
  'block1': (3, 3, 64, 64),
  'projection': (1, 1, 64, 128),
  'block2': (3, 3, 128, 128),
  'head': (128, 10),
}


def _total(shapes, found):
  """The sparsity of all kernels together."""
  sizes = {path: math.prod(shape) for path, shape in shapes.items()}
  zeros = sum(found[path] * size for path, size in sizes.items())
  return zeros / sum(sizes.values())


def test_erdos_renyi_kernel_literals():
  # (2 + 2) / 4 = 1 and (10 + 20) / 200 = 0.15 of eps. Of 204 weights 51 are
  # kept: with eps = 51 / (4 + 30) = 1.5 the first would have more than all, so
  # it is dense, and of the second 47 / 200 are kept.
  shapes = {'a': (2, 2), 'b': (10, 20)}
  found = sparsity_distributions.erdos_renyi_kernel(shapes, 0.75)
  assert found == pytest.approx({'a': 0.0, 'b': 1 - 47 / 200})
  # At 90% zeros, eps = 20.4 / 34 = 0.6.
  found = sparsity_distributions.erdos_renyi_kernel(shapes, 0.9)
  assert found == pytest.approx({'a': 0.4, 'b': 1 - 0.6 * 0.15})


@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.9, 0.999])
def test_the_total_is_exact(sparsity):
  for shapes in (_RESNET, {'only': (3, 4)}, {'a': (2, 3), 'b': (2, 3)}):
    found = sparsity_distributions.erdos_renyi_kernel(shapes, sparsity)
    assert list(found) == list(shapes)
    assert all(0.0 <= s < 1.0 for s in found.values())
    assert _total(shapes, found) == pytest.approx(sparsity, abs=1e-12)


@pytest.mark.parametrize('sparsity', [0.3, 0.8, 0.99])
def test_all_that_are_not_dense_have_the_same_epsilon(sparsity):
  found = sparsity_distributions.erdos_renyi_kernel(_RESNET, sparsity)
  density = {
    path: sum(shape) / math.prod(shape) for path, shape in _RESNET.items()
  }
  epsilon = [
    (1 - found[path]) / density[path] for path in _RESNET if found[path] > 0
  ]
  assert epsilon
  np.testing.assert_allclose(epsilon, epsilon[0], rtol=1e-9)
  # What is dense would have as much or more by that epsilon.
  dense = [path for path in _RESNET if found[path] == 0]
  assert all(epsilon[0] * density[path] >= 1 for path in dense)
  assert bool(dense) == (sparsity < 0.99)


def test_what_becomes_dense_may_make_others_dense():
  # eps = 70 / (2 + 8 + 26) = 1.94, so that 'a' (2 eps) is dense and 'b' (eps
  # / 2) is not; without 'a' it is 69 / 34 = 2.03, and 'b' is dense too.
  shapes = {'a': (1, 1), 'b': (4, 4), 'c': (6, 20)}
  found = sparsity_distributions.erdos_renyi_kernel(shapes, 1 - 70 / 137)
  assert found == pytest.approx({'a': 0, 'b': 0, 'c': 1 - 53 / 120})


def test_the_table_has_both():
  found = {
    name: share({'a': (2, 2), 'b': (10, 20)}, 0.75)['a']
    for name, share in sparsity_distributions.DISTRIBUTIONS.items()
  }
  assert found == {'uniform': 0.75, 'erdos_renyi_kernel': 0.0}


def test_stacked_layers_are_allocated_as_so_many():
  alone = {f'{i}': (64, 32) for i in range(6)} | {'head': (64, 10)}
  wanted = sparsity_distributions.distribute('erdos_renyi_kernel', alone, 0.9)
  found = sparsity_distributions.distribute(
    'erdos_renyi_kernel',
    {'stack': (2, 64, 3, 32), 'head': (64, 10)},
    0.9,
    {'stack': (0, 2)},
  )
  assert found == {'stack': wanted['0'], 'head': wanted['head']}
  assert found['head'] < 0.85 < 0.9 < found['stack']


PATHS = ('conv/kernel', 'head/kernel', 'block.1/kernel')


@pytest.mark.parametrize(
  ('values', 'wanted'),
  [
    (0.5, (0.5, 0.5, 0.5)),
    ({'.*': 1}, (1, 1, 1)),
    ({'head/.*': 2, '.*': 1}, (1, 2, 1)),
    # The first expression counts.
    ({'.*': 1, 'head/.*|conv/.*': 2}, (1, 1, 1)),
    # A path comes first, wherever it is.
    ({'.*': 1, 'head/kernel': 2}, (1, 2, 1)),
    ({'head/kernel': 2, '.*': 1}, (1, 2, 1)),
    (dict(zip(PATHS, (1, 2, 3), strict=True)), (1, 2, 3)),
    # An expression must match the whole path.
    ({'head/k.*': 2, '.*kernel': 1}, (1, 2, 1)),
  ],
)
def test_values_by_path(values, wanted):
  found = sparsity_distributions.resolve(values, PATHS)
  assert list(found.items()) == list(zip(PATHS, wanted, strict=True))


def test_a_path_stands_for_itself_alone():
  # As an expression, it would match the second one too.
  paths = ('block.1/kernel', 'block_1/kernel')
  found = sparsity_distributions.resolve({'block.1/kernel': 1, '.*': 2}, paths)
  assert found == {'block.1/kernel': 1, 'block_1/kernel': 2}


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({}, 'sparsity has no value for conv/kernel'),
    ({'conv/.*': 1}, 'no value for head/kernel, wanted one of its keys'),
    ({'kernel': 1, '.*': 2}, "'kernel' matches no kernel, wanted .* conv/k"),
    ({'.*': 2, 'conv/kern': 1}, "'conv/kern' matches no kernel"),
    ({'(': 1, '.*': 2}, r"'\(' is no regular expression"),
  ],
)
def test_values_that_do_not_fit_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    sparsity_distributions.resolve(values, PATHS)
