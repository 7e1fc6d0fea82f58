"""ONNX models compute what the network does, in each of their forms."""

import collections
import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hq_jax.core import qtensors
from hq_jax.data import normalization
from hq_jax.inference import calibration
from hq_jax.inference import jax_network
from hq_jax.inference import onnx_engine
from hq_jax.inference import onnx_model
from tests.inference import drawn_files
from tests.inference import networks

_SMALL = ('small_resnet', {'widths': [8, 16], 'num_blocks': [1, 1]}, (9, 8, 3))


def _start(model, **options):
  onnx.checker.check_model(model, full_check=True)
  chosen = ort.SessionOptions()
  chosen.intra_op_num_threads = 1
  chosen.log_severity_level = 3
  for name, value in options.items():
    setattr(chosen, name, value)
  return ort.InferenceSession(model, chosen)


def _run(model, images):
  session = _start(model)
  (found,) = session.run([onnx_model.OUTPUT], {onnx_model.INPUT: images})
  return found


def _error(found, wanted):
  return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def _draw_pixels(shape, number=16):
  rng = np.random.default_rng(5)
  return rng.integers(0, 256, (number, *shape), np.uint8)


def _make_measured(network):
  """An artifact that knows its ranges, and normalized images."""
  artifact = drawn_files.make(*network)
  channels = artifact.input_shape[-1]
  artifact = artifact._replace(
    preprocessing={'mean': [120.0] * channels, 'std': [60.0] * channels}
  )
  images = normalization.normalize(
    _draw_pixels(artifact.input_shape), artifact.preprocessing
  )
  ranges = calibration.measure(artifact, images)
  return artifact._replace(activation_ranges=ranges), images


@pytest.mark.parametrize(('name', 'arguments', 'shape'), networks.PARAMS)
def test_logits_are_those_of_the_network(name, arguments, shape):
  artifact = drawn_files.make(name, arguments, shape)
  images = drawn_files.draw_images(artifact)
  wanted = jax_network.JaxEngine(artifact).logits(images)
  for weights in onnx_model.WEIGHTS:
    model = onnx_model.make_onnx(artifact, weights=weights)
    assert _error(_run(model, images), wanted) < 1e-5
  engine = onnx_engine.OnnxEngine(artifact)
  assert engine.activations == 'float32'
  assert _error(engine.logits(images[:1]), wanted[:1]) < 1e-5


@pytest.mark.parametrize(
  ('network', 'most'),
  [
    (('mlp', {'widths': [32, 16]}, (6, 5, 2)), 0.01),
    (_SMALL, 0.01),
    pytest.param(('resnet50', {}, (64, 64, 3)), 0.02, marks=pytest.mark.slow),
    (('mobilenet_v2', {}, (48, 32, 3)), 0.01),
  ],
)
def test_activations_of_8_bits(network, most):
  artifact, images = _make_measured(network)
  wanted = onnx_engine.OnnxEngine(
    artifact._replace(activation_ranges=())
  ).logits(images)
  engine = onnx_engine.OnnxEngine(artifact)
  assert engine.activations == 'int8'
  found = engine.logits(images)
  assert 0 < _error(found, wanted) < most
  np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))
  exported = onnx_model.make_onnx(artifact, activations='int8')
  assert _error(_run(exported, images), found) < 1e-5


def test_the_first_layers_of_mobilenet_stay_float32(tmp_path):
  artifact, _ = _make_measured(('mobilenet_v2', {}, (48, 32, 3)))
  path = str(tmp_path / 'optimized.onnx')
  model = onnx_model.make_onnx(artifact, activations='int8')
  _start(model, optimized_model_filepath=path)
  convolutions = [
    node.op_type == 'QLinearConv'
    for node in onnx.load(path).graph.node
    if 'Conv' in node.op_type
  ]
  # To images of 12 rows or more, and the first to fewer.
  assert convolutions == [False] * 11 + [True] * 41


def test_activations_of_8_bits_are_computed_with_integers(tmp_path):
  artifact, _ = _make_measured(_SMALL)
  for weights in ('int8', 'float32'):
    path = str(tmp_path / 'optimized.onnx')
    model = onnx_model.make_onnx(artifact, weights=weights, activations='int8')
    _start(model, optimized_model_filepath=path)
    ops = collections.Counter(
      node.op_type for node in onnx.load(path).graph.node
    )
    assert ops['QLinearConv'] == 6 and ops['QLinearAdd'] == 2
    assert ops['Conv'] == 0 and ops['Add'] == 0


@pytest.mark.parametrize(
  ('network', 'float_products'),
  [
    (('mlp', {'widths': [16, 16, 16]}, (6, 5, 2)), []),
    # The head, whose input is not rounded.
    (networks.NETWORKS[-1], ['logits']),
  ],
)
def test_dense_layers_are_computed_with_integers(
  network, float_products, tmp_path
):
  artifact, _ = _make_measured(network)
  path = str(tmp_path / 'optimized.onnx')
  model = onnx_model.make_onnx(artifact, activations='int8')
  _start(model, optimized_model_filepath=path)
  nodes = onnx.load(path).graph.node
  found = [node.output[0] for node in nodes if node.op_type == 'Gemm']
  assert found == float_products


@pytest.mark.parametrize('activations', onnx_model.ACTIVATIONS)
def test_raw_pixels_give_the_same_bits(activations):
  artifact, images = _make_measured(_SMALL)
  pixels = _draw_pixels(artifact.input_shape)
  models = [
    onnx_model.make_onnx(artifact, activations=activations, raw_input=is_raw)
    for is_raw in (False, True)
  ]
  found = [_run(models[0], images), _run(models[1], pixels)]
  np.testing.assert_array_equal(*found)


def _replace_norm(artifact, norm, scale, bias):
  """The artifact with other numbers in one of its norms."""
  path = f'params/{norm}'
  changed = {
    f'{path}/scale': artifact.tensors[f'{path}/scale'] * np.float32(scale),
    f'{path}/bias': np.float32(bias),
  }
  return artifact._replace(tensors=artifact.tensors | changed)


def _compare_activations(artifact, images):
  """The error of 8-bit activations."""
  ranges = calibration.measure(artifact, images)
  found = [
    onnx_engine.OnnxEngine(artifact._replace(activation_ranges=x))
    for x in ((), ranges)
  ]
  wanted, found = (engine.logits(images) for engine in found)
  return _error(found, wanted)


@pytest.mark.parametrize(
  'scale',
  [
    [0, -1, 1, 1, -2, 1, 1, 0],
    [1e-4, -1, 1, 1e-9, 1, 1, 1e-12, 1],
    [1e-30] * 8,
  ],
  ids=['negative', 'small', 'none'],
)
def test_norms_whose_scale_is_negative_or_next_to_nothing(scale):
  artifact, images = _make_measured(_SMALL)
  bias = np.linspace(-2, 3, 8)
  artifact = _replace_norm(artifact, 'stage1_block1/norm1', scale, bias)
  assert _compare_activations(artifact, images) < 0.01


def test_channels_without_codes_keep_their_bias():
  # As dead channels have it: nothing comes in, and the norm has a scale of
  # 1 / sqrt(epsilon).
  artifact, images = _make_measured(_SMALL)
  path = 'params/stage1_block1/conv2/kernel'
  codes = artifact.tensors[path].codes.copy()
  codes[..., ::2] = 0
  kernel = qtensors.TernaryTensor(codes)
  artifact = artifact._replace(tensors=artifact.tensors | {path: kernel})
  scale, bias = [316, 1] * 4, np.linspace(-2, 3, 8)
  artifact = _replace_norm(artifact, 'stage1_block1/norm2', scale, bias)
  assert _compare_activations(artifact, images) < 0.01


def test_weights_stay_small_in_the_file_and_in_onnxruntime(tmp_path):
  width = 512
  artifact = drawn_files.make('mlp', {'widths': [width] * 4}, (8, 8, 1))
  path = str(tmp_path / 'optimized.onnx')
  # Of the second layer, codewords, the kernel is float32 everywhere.
  for weights, weight_bytes in (('int2', 0.25), ('int8', 1), ('float32', 4)):
    model = onnx_model.make_onnx(artifact, weights=weights)
    _start(model, optimized_model_filepath=path)
    expected = width * width * (4 + 2 * weight_bytes)
    for size in (len(model), os.path.getsize(path)):
      assert expected < size < 1.1 * expected


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'weights': 'int4'}, "weights is 'int4', wanted one of: float32, int8"),
    ({'activations': 'int4'}, "activations is 'int4', wanted one of"),
    ({'activations': 'int8'}, 'the file has no ranges'),
    ({'weights': 'int2', 'activations': 'int8'}, "wanted 'float32' where"),
    (
      {'activations': 'int8', 'ranges': {'norm_stem/relu': 0.0}},
      r"ranges\['norm_stem/relu'\] is 0.0, wanted a number above 0",
    ),
  ],
)
def test_what_cannot_be_made_is_refused(options, message):
  artifact = drawn_files.make(*_SMALL)
  with pytest.raises(ValueError, match=message):
    onnx_model.make_onnx(artifact, **options)


def test_ranges_of_another_network_are_refused():
  artifact = drawn_files.make(*_SMALL)._replace(activation_ranges=(1.0, 2.0))
  with pytest.raises(ValueError, match='2 entries, wanted 8'):
    onnx_engine.OnnxEngine(artifact)
