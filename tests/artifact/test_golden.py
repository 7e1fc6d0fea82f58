"""Files that were written once: what is in them must stay readable.

Their tensors follow from integer formulas, so that no generator of random
numbers stands between a file and what is expected of it. `golden.hq` is of
before layers had classes, `golden_classes.hq` was written by

  python tests/artifact/test_golden.py

and is written again only where the version of the format changes.
"""

import pathlib

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import reader
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors

PATH = pathlib.Path(__file__).with_name('golden.hq')
CLASSES = PATH.with_name('golden_classes.hq')


def _mix(shape, seed):
  """uint32 of this shape that look random: a multiplicative hash."""
  index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(
    seed
  )
  mixed = (index * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
  mixed = (mixed * np.uint64(0xBF58476D)) & np.uint64(0xFFFFFFFF)
  return (mixed >> np.uint64(8)).astype(np.uint32).reshape(shape)


def _codes(shape, seed):
  """Ternary codes: channels differ in density, taps repeat their signs."""
  density = 40 + _mix(shape[-2:], seed) % 7 * (_mix(shape[-1:], seed + 1) % 50)
  kept = _mix(shape, seed + 2) % 1000 < density
  signs = np.where(_mix(shape[-2:], seed + 3) % 2, 1, -1)
  flips = np.where(_mix(shape, seed + 4) % 8, 1, -1)
  return (kept * signs * flips).astype(np.int8)


def make():
  """The artifact that the file holds."""
  norm = (_mix((24,), 50) % 512).astype(np.float16) / 256
  return artifact.Artifact(
    model='golden',
    model_args={'depth': 3, 'names': ['a', 'é'], 'rate': 0.5},
    input_shape=(8, 8, 3),
    preprocessing={'mean': [0.5, 0.25, 0.125]},
    class_names=('cat', '犬'),
    tensors={
      'params/conv1/kernel': qtensors.TernaryTensor(_codes((3, 3, 16, 24), 1)),
      'params/conv2/kernel': qtensors.TernaryTensor(
        _codes((2, 2, 3, 24, 20), 7),
        norm[:20].astype(np.float32).reshape(1, 1, 1, 1, 20),
      ),
      'params/dense/kernel': qtensors.TernaryTensor(
        _codes((256, 96), 13), np.tile(norm, 4)[None]
      ),
      'params/few/kernel': qtensors.TernaryTensor(_codes((4, 3), 19)),
      'params/none/kernel': qtensors.TernaryTensor(np.zeros((5, 4), np.int8)),
      'params/first/kernel': qtensors.Int8Tensor(
        (_mix((3, 3, 3, 8), 30) % 255 - np.int64(127)).astype(np.int8), norm[:8]
      ),
      'params/norm/scale': norm,
      'params/norm/bias': norm[::-1].copy(),
      'params/dense/bias': (_mix((96,), 60) % 1000).astype(np.float32) / 1024,
      'batch_stats/count': np.array(12345, np.int64),
    },
    folded_norms={'norm': 1e-5},
  )


def _product(shape, seed):
  """Ternary codes: rows and columns each times 1 to 8 as dense."""
  rows = 1 << _mix((shape[-2], 1), seed) % 4
  columns = 1 << _mix((shape[-1],), seed + 1) % 4
  kept = _mix(shape, seed + 2) % 1000 < 10 * rows * columns
  return (kept * np.where(_mix(shape, seed + 3) % 2, 1, -1)).astype(np.int8)


def make_classes():
  """An artifact whose layers are written with classes."""
  codes = {
    'conv': _codes((3, 3, 32, 48), 1),
    'deep': _codes((2, 2, 3, 40, 24), 7),
    'dense': _product((200, 120), 13),
  }
  return make()._replace(
    tensors={
      f'params/{name}/kernel': qtensors.TernaryTensor(values)
      for name, values in codes.items()
    },
    folded_norms={},
  )


@pytest.mark.parametrize(
  ('path', 'expected'), [(PATH, make), (CLASSES, make_classes)]
)
def test_the_file_holds_what_was_written(path, expected, check_equal):
  check_equal(artifact.read(path), expected())


@pytest.mark.parametrize(
  ('path', 'modes'),
  [(PATH, [1, 1, 1, 0, 0]), (CLASSES, [2, 2, 2])],
)
def test_codes_are_written_to_the_same_bytes(path, modes):
  """All but DEFLATE is the same with every release of every package."""
  parsed = reader.parse(path.read_bytes())
  tables, stream = reader.split_codes(parsed)
  assert [table.mode for table in tables] == modes
  found = reader.decode(parsed).tensors.values()
  layers = [t.codes for t in found if isinstance(t, qtensors.TernaryTensor)]
  assert ternary_coder.encode(layers, tables) == (tables, stream)
  has_one_symbol = [
    ternary_coder.TOTAL in table.frequencies for table in tables
  ]
  assert has_one_symbol == [path == PATH and i == 4 for i in range(len(tables))]


if __name__ == '__main__':
  ternary_coder._SMALL = 0  # no layer is so small that it gets other contexts
  artifact.write(CLASSES, make_classes())
