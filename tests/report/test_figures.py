"""The pictures: what they plot, and that nothing is cut off or covered."""

import itertools
import os

import matplotlib
from matplotlib import text as text_lib
from matplotlib.backends import backend_agg
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.core import qtensors
from hq_jax.report import drawing
from hq_jax.report import figures
from hq_jax.report import wording
from tests.report import run_records


def _draw_sizes(inputs):
  return figures.draw_sizes(run_records.summarize(inputs)[0])


def _draw_weights(inputs):
  return figures.draw_weights(inputs, run_records.summarize(inputs)[1])


def _draw_summary(inputs):
  report, _ = run_records.summarize(inputs)
  return figures.draw_summary(report, inputs.history)


_DRAW = (
  figures.draw_cosine_distance,
  figures.draw_training,
  *(_draw_sizes, _draw_weights, _draw_summary),
)


@pytest.fixture
def styled():
  with drawing.style():
    yield


def _find_texts(figure):
  """What is written, with its box in pixels; and the same of the ticks."""
  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  texts, ticks, seen = [], [], set()
  for axes in figure.axes:
    for axis, low, high, place in (
      (axes.xaxis, axes.bbox.x0, axes.bbox.x1, 'x'),
      (axes.yaxis, axes.bbox.y0, axes.bbox.y1, 'y'),
    ):
      labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
      seen.update(map(id, [*labels, axis.label]))
      if not axis.get_visible():
        continue
      texts.append((axis.label.get_text(), axis.label.get_window_extent()))
      for label in labels:
        box = label.get_window_extent()
        middle = getattr(box, f'{place}0') + getattr(box, f'{place}1')
        # Ticks beyond the ends of the axis are there, but not drawn.
        if label.get_visible() and low - 1 <= middle / 2 <= high + 1:
          ticks.append((label.get_text(), box))
  texts += [
    (text.get_text(), text.get_window_extent())
    for text in figure.findobj(text_lib.Text)
    if id(text) not in seen
  ]
  return [
    [(text, box) for text, box in found if text.strip()]
    for found in (texts, ticks)
  ]


def _find_faults(figure):
  """Texts that are cut off, and pairs of texts that cover one another."""
  texts, ticks = _find_texts(figure)
  width, height = figure.bbox.size
  faults = [
    text
    for text, box in texts + ticks
    if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
  ]
  for (one, box), (other, second) in itertools.combinations(texts + ticks, 2):
    # Boxes have some blank at the letters' edges, which may be shared.
    across = min(box.x1, second.x1) - max(box.x0, second.x0)
    down = min(box.y1, second.y1) - max(box.y0, second.y0)
    if across > 1 and down > 3:
      faults.append((one, other))
  return faults


def test_no_text_is_cut_off_or_covers_another(styled, odd):
  for draw in _DRAW:
    figure = draw(odd)
    assert (draw, _find_faults(figure)) == (draw, [])
    assert len(_find_texts(figure)[0]) >= 3


def test_that_check_finds_what_is_wrong(styled):
  figure = drawing.make_figure(300, 200)
  axes = figure.add_subplot()
  axes.text(0.5, 0.5, 'one')
  axes.text(0.5, 0.5, 'other')
  axes.text(1.1, 0.5, 'outside', in_layout=False)
  assert _find_faults(figure) == ['outside', ('one', 'other')]


def _settings():
  # Asking for the backend would choose one.
  names = [name for name in matplotlib.rcParams if name != 'backend']
  return {name: matplotlib.rcParams[name] for name in names}


def test_settings_of_the_user_are_ignored_and_kept(tiny):
  def render():
    with drawing.style():
      return drawing.to_png(figures.draw_training(tiny))

  expected = render()
  with matplotlib.rc_context({'xtick.labelsize': 30, 'axes.facecolor': 'red'}):
    before = _settings()
    assert render() == expected
    assert _settings() == before


def test_cosine_distance_has_a_line_per_kernel_and_their_mean(styled, usual):
  (axes,) = figures.draw_cosine_distance(usual).axes
  lines = {line.get_label(): line for line in axes.get_lines()}
  names = [path.removesuffix('/kernel') for path in usual.dense_kernels]
  assert lines.keys() == {*names, 'mean'}
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels[0] == 'conv_stem' and labels[-2:] == ['head', 'mean']
  table = [list(row['cosine_distance'].values()) for row in usual.history]
  np.testing.assert_allclose(
    lines['mean'].get_ydata(), np.mean(table, axis=1), rtol=1e-12
  )
  np.testing.assert_array_equal(
    lines['head'].get_ydata(),
    [row['cosine_distance']['head/kernel'] for row in usual.history],
  )
  others = [lines[name].get_linewidth() for name in names]
  assert lines['mean'].get_linewidth() > 1.5 * max(others)


def test_many_kernels_get_a_colour_bar(styled, make):
  shapes = {f'block{i}/kernel': (2, 2) for i in range(15)}
  axes, bar = figures.draw_cosine_distance(make(shapes=shapes)).axes
  assert bar.get_ylabel() == 'kernel, first to last of 15'
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['mean']


@pytest.mark.parametrize('first', [0, 20])
def test_phases_are_shaded_and_named_where_they_are(styled, first):
  axes = drawing.make_figure(600, 400).add_subplot()
  phases = [*['dense'] * 20, *['prune'] * 15, *['ternary'] * 25]
  rows = [{'phase': p, 'epoch': i} for i, p in enumerate(phases, 1)]
  drawing.shade_phases(axes, rows[first:], 'vector')
  spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]
  names = [(text.get_text(), text.xy[0]) for text in axes.texts]
  begins = first // 20  # A history may begin with a later phase.
  assert spans == [(0, 20), (20, 35), (35, 60)][begins:]
  assert names == [('dense', 10), ('prune', 27.5), ('vector', 47.5)][begins:]
  assert axes.get_xlim() == (first, 60)


def test_sizes_are_the_lengths_of_the_bars(styled, usual):
  left, right = _draw_sizes(usual).axes
  with open(usual.file_path, 'rb') as file:
    parts = artifact.sizes(file.read())
  file_bytes = sum(parts.values())
  codes = sum(kernel.size for kernel in usual.dense_kernels.values())
  channels = sum(k.shape[-1] for k in usual.dense_kernels.values())
  assert [bar.get_width() for bar in left.patches] == [
    usual.dense_bytes,
    codes + 2 * channels + 2 * channels,
    file_bytes,
  ]
  ratio = usual.dense_bytes / file_bytes
  assert left.get_title('left').startswith(f'{ratio:.2f} ')
  assert [text.get_text() for text in left.texts] == [
    '309.7 kB',
    '78.5 kB',
    f'{file_bytes / 1e3:.1f} kB',
  ]
  widths = [bar.get_width() for bar in right.patches]
  assert widths == sorted((n for n in parts.values() if n), reverse=True)


def test_weights_are_on_the_sphere():
  kernel = np.array([[3.0, -1.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    figures.scale_to_sphere(kernel),
    [[1.2, -2.0], [1.6, 0.0], [0.0, 0.0], [0.0, 0.0]],
  )


def test_points_are_where_the_codes_are():
  # Channels of 4 weights with 1, 2 and 4 non-zeros, and one without.
  codes = np.array(
    [[1, 1, -1, 0], [0, -1, 1, 0], [0, 0, 1, 0], [0, 0, -1, 0]], np.int8
  )
  low, median, high = figures.find_points(qtensors.TernaryTensor(codes))
  assert median == pytest.approx(np.sqrt(2))
  assert low == pytest.approx(1 + 0.2 * (np.sqrt(2) - 1))
  assert high == pytest.approx(2 - 0.2 * (2 - np.sqrt(2)))
  zeros = np.zeros((3, 2), np.int8)
  assert figures.find_points(qtensors.TernaryTensor(zeros)) is None
  assert figures.find_points(zeros) is None


def test_channels_of_stacked_layers_are_scaled_by_themselves(rng):
  gains = 2.0 ** -np.arange(3).reshape(-1, 1, 1, 1)
  kernel = rng.normal(size=(3, 40, 2, 5)) * gains
  codes = np.int8(np.sign(kernel) * (np.abs(kernel) > gains))
  tensor = qtensors.TernaryTensor(codes, np.ones((3, 1, 2, 5), np.float32))
  summed = figures.find_summed_axes(tensor)
  found = figures.scale_to_sphere(kernel, summed)
  np.testing.assert_allclose(np.mean(found**2, axis=1), 1)
  counts = np.count_nonzero(codes, axis=1)
  low, median, high = np.quantile(np.sqrt(40 / counts), [0.1, 0.5, 0.9])
  assert figures.find_points(tensor) == pytest.approx((low, median, high))


def test_histogram_counts_every_weight(styled, usual):
  top, bottom = _draw_weights(usual).axes[2::4]
  for axes, kernels in (
    (top, usual.dense_kernels),
    (bottom, usual.latent_kernels),
  ):
    values, edges, _ = axes.patches[0].get_data()
    found = figures.scale_to_sphere(kernels['stage3_block1/conv1/kernel'])
    within = np.mean((found >= edges[0]) & (found <= edges[-1]))
    assert values.sum() == pytest.approx(100 * within)
    assert edges[0] == -edges[-1] and len(values) % 2 == 1


def test_a_spike_at_zero_is_cut_and_said(styled, make):
  kernel = np.zeros((100, 1), np.float32)
  kernel[:10, 0] = np.linspace(0.5, 1, 10)
  kernels = {'kernel': kernel}
  inputs = make(shapes={'kernel': (100, 1)})._replace(
    dense_kernels=kernels, latent_kernels=kernels
  )
  for axes in _draw_weights(inputs).axes:
    assert [text.get_text() for text in axes.texts] == ['90% at 0']
    assert axes.get_ylim()[1] < 90


@pytest.mark.parametrize(
  ('name', 'marks', 'label'),
  [
    ('ternary', [-2.0, 0.0, 2.0], ['dashed: the ternary points of the file']),
    # Signs alone, of 8 weights each: sqrt(8 / 8), and nothing at zero.
    ('binary', [-1.0, 1.0], ['dashed: the binary points of the file']),
    ('vector', [], []),
  ],
)
def test_points_are_marked_where_there_are_some(make, name, marks, label):
  inputs = make(shapes={'kernel': (8, 4)}, config={'quantizer': {'name': name}})
  codes = np.ones((8, 4), np.int8)
  codes[2 if name == 'ternary' else 8 :] = 0
  tensor = qtensors.TernaryTensor(codes)
  if name == 'vector':
    indices, codewords = np.zeros((4, 4), np.uint8), np.ones((1, 2), np.float16)
    tensor = qtensors.CodebookTensor(indices, codewords, None)
  found = artifact.Artifact('', {}, (), {}, (), {'params/kernel': tensor}, {})
  figure = figures.draw_weights(inputs, found)
  assert [
    sorted(line.get_xdata()[0] for line in axes.get_lines())
    for axes in figure.axes
  ] == [marks] * 2
  assert figure.get_supxlabel().splitlines()[1:] == label


def test_summary_shows_file_and_dense_where_they_are(styled, usual):
  figure = _draw_summary(usual)
  left, right = figure.axes
  file_bytes = os.path.getsize(usual.file_path)
  assert figure.get_suptitle() == (
    f'{usual.dense_bytes / file_bytes:.2f} times smaller: test accuracy 98.60%'
    ' dense, 97.40% file'
  )
  points = [(*line.get_xdata(), *line.get_ydata()) for line in left.get_lines()]
  assert points == [(usual.dense_bytes, 0.986), (file_bytes, 0.974)]
  assert left.get_xscale() == 'log'
  (mean,) = right.get_lines()
  assert len(mean.get_xdata()) == 60


def test_the_summary_is_about_the_quantizer(styled, make):
  inputs = make(
    phases={'dense': 2, 'ternary': 2}, config={'quantizer': {'name': 'vector'}}
  )
  history = wording.clean_history(inputs.history, 'vector')
  _, axes = _draw_summary(inputs._replace(history=history)).axes
  assert axes.get_title('left') == 'Cosine distance to vector'
  assert axes.get_ylabel() == '1 - cos(latent, vector)'
  assert [text.get_text() for text in axes.texts] == ['dense', 'vector']
  (mean,) = axes.get_lines()
  y = np.ma.masked_invalid(mean.get_ydata())
  wanted = [np.mean(list(r['cosine_distance'].values())) for r in history[2:]]
  np.testing.assert_allclose(y.compressed(), wanted)
