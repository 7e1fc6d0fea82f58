"""The report of a run with another quantizer: its words and its pictures."""

import json
import os

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import report
from hq_jax.core import qtensors
from hq_jax.report import drawing
from hq_jax.report import results
from hq_jax.report import summary
from hq_jax.report import tables
from hq_jax.report import weights
from hq_jax.report import wording

SHAPE = (8, 4)


def _make_records(name, rng):
  if name == 'binary':
    codes = rng.choice(np.array([-1, 1], np.int8), SHAPE)
    return qtensors.TernaryTensor(codes, np.ones(4, np.float16))
  indices = rng.integers(0, 3, (4, 4)).astype(np.uint8)
  codewords = rng.normal(size=(3, 2)).astype(np.float16)
  return qtensors.CodebookTensor(indices, codewords, np.ones(4, np.float16))


@pytest.fixture
def make(make, tmp_path):
  """Returns a function: a quantizer's name to the inputs of its run."""

  def make_inputs(name):
    inputs = make(
      shapes={'a/kernel': SHAPE, 'b/kernel': SHAPE},
      phases={'dense': 2, 'ternary': 2},
      config={'quantizer': {'name': name}},
    )
    rng = np.random.default_rng(1)
    found = {
      f'params/{path}': _make_records(name, rng)
      for path in inputs.dense_kernels
    }
    path = os.path.join(tmp_path, f'{name}.hq')
    artifact.write(
      path, artifact.Artifact('net', {}, (8,), {}, ('a',), found, {})
    )
    return inputs._replace(file_path=path)

  return make_inputs


def _make_report(inputs):
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  return results.make(inputs, data, artifact.loads(data))


@pytest.mark.parametrize('name', ['vector', 'binary'])
def test_tables_name_the_quantizer(make, name):
  inputs = make(name)
  found = _make_report(
    inputs._replace(history=wording.clean_history(inputs.history, name))
  )
  text = tables.format_markdown(found)
  assert text.startswith(
    f'# net: {found["ratio"]:.2f} times smaller\n\nMade with the quantizer'
    f' `{name}`, to be compared with a reconstruction of Hyperspherical'
    " Quantization from the paper's abstract.\n"
  )
  assert (
    tables.format_table(found).splitlines()[3].startswith(f'{name} in memory ')
  )
  for words in ('ternary in', 'ternary pro', 'final sparsity', '(start)'):
    assert words not in text
  assert f'and its {name} projection, at the end of training (end).' in text
  # Of dense weights there is no distance to speak of.
  (row,) = [x for x in text.splitlines() if x.startswith('| a/kernel')]
  start, end = [cell.strip() for cell in row.split('|')[-3:-1]]
  distance = inputs.history[-1]['cosine_distance']['a/kernel']
  assert (start, end) == ('-', f'{distance:.4f}')


def test_words_of_the_usual_run_are_as_they_were():
  assert wording.describe_origin('ternary') == (
    'Made by a reconstruction of Hyperspherical Quantization from the'
    " paper's abstract."
  )
  assert wording.describe_layers('ternary') == (
    'Entropy: order 0, bits per code. Cosine distance: mean over channels of '
    '1 - cos between the latent kernel and its ternary projection at the final '
    'sparsity, at the end of the dense phase (start) and of training (end).'
  )


def test_distances_of_other_phases_stay(make):
  inputs = make('vector')
  before = json.dumps(inputs.history)
  found = wording.clean_history(inputs.history, 'vector')
  nothing = {'a/kernel': None, 'b/kernel': None}
  assert [row['cosine_distance'] for row in found] == [
    nothing,
    nothing,
    *(row['cosine_distance'] for row in inputs.history[2:]),
  ]
  assert [row['sparsity'] for row in found] == [
    row['sparsity'] for row in inputs.history
  ]
  assert json.dumps(inputs.history) == before  # They were the caller's.
  assert wording.clean_history(inputs.history, 'ternary') == inputs.history


def test_points_are_marked_where_there_are_some(make):
  marks, labels = {}, {}
  for name in ('vector', 'binary'):
    inputs = make(name)
    found = artifact.read(inputs.file_path).tensors
    figure = weights.draw(
      inputs.dense_kernels,
      inputs.latent_kernels,
      {path: found[f'params/{path}'] for path in inputs.dense_kernels},
      name,
    )
    marks[name] = [
      sorted(line.get_xdata()[0] for line in axes.get_lines())
      for axes in figure.axes
    ]
    labels[name] = figure.get_supxlabel().splitlines()[1:]
  # Signs alone, of 8 weights each: sqrt(8 / 8), and nothing at zero.
  assert marks == {'vector': [[]] * 4, 'binary': [[-1.0, 1.0]] * 4}
  assert labels == {
    'vector': [],
    'binary': ['dashed: the binary points of the file'],
  }


def test_the_summary_is_about_the_quantizer(make):
  inputs = make('vector')
  history = wording.clean_history(inputs.history, 'vector')
  with drawing.style():
    _, axes = summary.draw(_make_report(inputs), history).axes
  assert axes.get_title('left') == 'Cosine distance to vector'
  assert axes.get_ylabel() == '1 - cos(latent, vector)'
  assert [text.get_text() for text in axes.texts] == ['dense', 'vector']
  (mean,) = axes.get_lines()
  y = np.ma.masked_invalid(mean.get_ydata())
  wanted = [np.mean(list(r['cosine_distance'].values())) for r in history[2:]]
  np.testing.assert_allclose(y.compressed(), wanted)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vector', 'binary'])
def test_a_whole_report_is_written(make, tmp_path, name):
  found = report.write(str(tmp_path), make(name))
  rows = found['history']
  assert [row['mean_cosine_distance'] is None for row in rows] == [
    True,
    True,
    False,
    False,
  ]
  assert len(list(tmp_path.glob('*.png'))) == 5
