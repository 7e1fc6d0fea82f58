"""The pictures: what they plot, and that nothing is cut off or covered."""

import itertools

import matplotlib
from matplotlib import text as text_lib
from matplotlib.backends import backend_agg
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.core import qtensors
from hq_jax.report import drawing
from hq_jax.report import epochs
from hq_jax.report import figures
from hq_jax.report import results
from hq_jax.report import summary
from hq_jax.report import weights


def _draw_distance(inputs):
  shapes = {path: kernel.shape for path, kernel in inputs.dense_kernels.items()}
  return figures.draw_cosine_distance(inputs.history, shapes)


def _draw_training(inputs):
  return figures.draw_training(
    inputs.history, inputs.dense['accuracy'], inputs.file['accuracy']
  )


def _draw(inputs):
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  model = artifact.loads(data)
  report = results.make(inputs, data, model)
  found = {p: model.tensors[f'params/{p}'] for p in inputs.dense_kernels}
  return {
    'cosine_distance': _draw_distance(inputs),
    'training': _draw_training(inputs),
    'sizes': figures.draw_sizes(report),
    'weights': weights.draw(inputs.dense_kernels, inputs.latent_kernels, found),
    'summary': summary.draw(report, inputs.history),
  }


@pytest.fixture
def styled():
  with drawing.style():
    yield


def _file_bytes(inputs):
  with open(inputs.file_path, 'rb') as file:
    return len(file.read())


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
  for name, figure in _draw(odd).items():
    assert (name, _find_faults(figure)) == (name, [])
    assert len(_find_texts(figure)[0]) >= 3


def test_that_check_finds_what_is_wrong(styled):
  figure = drawing.make_figure(300, 200)
  axes = figure.add_subplot()
  axes.text(0.5, 0.5, 'one')
  axes.text(0.5, 0.5, 'other')
  axes.text(1.1, 0.5, 'outside', in_layout=False)
  assert _find_faults(figure) == ['outside', ('one', 'other')]


def test_picture_keeps_the_colours_of_the_phases(styled, usual, decode):
  _, pixels = decode(drawing.to_png(_draw_distance(usual)))
  colours, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_counts=True)
  most = {int(colours[i]) for i in np.argsort(counts)[-4:]}
  assert most == {0xFFFFFF, 0xEEEEEE, 0xDCEAF5, 0xFCEBD2}


def test_same_inputs_same_bytes(usual):
  found = []
  for _ in range(2):
    with drawing.style():
      found.append(drawing.to_png(_draw_training(usual)))
  assert found[0] == found[1]


def _settings():
  # Asking for the backend would choose one.
  names = [name for name in matplotlib.rcParams if name != 'backend']
  return {name: matplotlib.rcParams[name] for name in names}


def test_settings_of_the_user_are_ignored_and_kept(usual):
  with drawing.style():
    expected = drawing.to_png(_draw_training(usual))
  with matplotlib.rc_context({'xtick.labelsize': 30, 'axes.facecolor': 'red'}):
    before = _settings()
    with drawing.style():
      assert drawing.to_png(_draw_training(usual)) == expected
    assert _settings() == before


def test_cosine_distance_has_a_line_per_kernel_and_their_mean(styled, usual):
  (axes,) = _draw_distance(usual).axes
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
  figure = _draw_distance(make(shapes=shapes))
  axes, bar = figure.axes
  assert bar.get_ylabel() == 'kernel, first to last of 15'
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['mean']


def test_phases_are_shaded_and_named_where_they_are(styled, usual):
  axes = drawing.make_figure(600, 400).add_subplot()
  epochs.shade_phases(axes, usual.history)
  spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]
  assert spans == [(0, 20), (20, 35), (35, 60)]
  names = [(text.get_text(), text.xy[0]) for text in axes.texts]
  assert names == [('dense', 10), ('prune', 27.5), ('ternary', 47.5)]
  assert axes.get_xlim() == (0, 60)


def test_phases_of_a_history_that_begins_later():
  rows = [{'phase': 'prune', 'epoch': 21}, {'phase': 'prune', 'epoch': 22}]
  assert epochs.find_phases(rows) == [('prune', 20, 22)]


def test_sizes_are_the_lengths_of_the_bars(styled, usual):
  left, right = _draw(usual)['sizes'].axes
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
  assert left.get_title('left').startswith(
    f'{usual.dense_bytes / file_bytes:.2f} '
  )
  widths = [bar.get_width() for bar in right.patches]
  assert widths == sorted((n for n in parts.values() if n), reverse=True)


def test_weights_are_on_the_sphere_and_the_points_are_marked(styled):
  kernel = np.array([[3.0, -1.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    weights.scale_to_sphere(kernel),
    [[1.2, -2.0], [1.6, 0.0], [0.0, 0.0], [0.0, 0.0]],
  )
  # Channels of 4 weights with 1, 2 and 4 non-zeros, and one without.
  codes = np.array(
    [[1, 1, -1, 0], [0, -1, 1, 0], [0, 0, 1, 0], [0, 0, -1, 0]], np.int8
  )
  points = weights.find_points(qtensors.TernaryTensor(codes))
  assert points.median == pytest.approx(np.sqrt(2))
  assert points.low == pytest.approx(1 + 0.2 * (np.sqrt(2) - 1))
  assert points.high == pytest.approx(2 - 0.2 * (2 - np.sqrt(2)))
  kernels = {'kernel': np.eye(4)}
  found = {'kernel': qtensors.TernaryTensor(codes)}
  figure = weights.draw(kernels, kernels, found)
  for axes in figure.axes:
    marks = sorted(line.get_xdata()[0] for line in axes.get_lines())
    assert marks == pytest.approx([-np.sqrt(2), 0, np.sqrt(2)])


def test_no_points_where_there_are_none():
  zeros = qtensors.TernaryTensor(np.zeros((3, 2), np.int8))
  assert weights.find_points(zeros) is None
  assert weights.find_points(np.zeros((3, 2), np.int8)) is None


def test_histogram_counts_every_weight(styled, usual):
  top, bottom = _draw(usual)['weights'].axes[2::4]
  for axes, kernels in (
    (top, usual.dense_kernels),
    (bottom, usual.latent_kernels),
  ):
    values, edges, _ = axes.patches[0].get_data()
    found = weights.scale_to_sphere(kernels['stage3_block1/conv1/kernel'])
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
  for axes in _draw(inputs)['weights'].axes:
    assert [text.get_text() for text in axes.texts] == ['90% at 0']
    assert axes.get_ylim()[1] < 90


def test_summary_shows_file_and_dense_where_they_are(styled, usual):
  figure = _draw(usual)['summary']
  left, right = figure.axes
  ratio = usual.dense_bytes / _file_bytes(usual)
  assert figure.get_suptitle() == (
    f'{ratio:.2f} times smaller: test accuracy 98.60% dense, 97.40% file'
  )
  points = [(*line.get_xdata(), *line.get_ydata()) for line in left.get_lines()]
  assert points == [
    (usual.dense_bytes, 0.986),
    (_file_bytes(usual), 0.974),
  ]
  assert left.get_xscale() == 'log'
  (mean,) = right.get_lines()
  assert len(mean.get_xdata()) == 60
