"""Vision transformers: all engines and exports compute the same."""

import sys

import numpy as np
import onnxruntime
import pytest
from safetensors import numpy as safetensors

import hq_jax
from hq_jax import artifact as artifact_lib
from hq_jax.core import qtensors
from hq_jax.inference import calibration
from hq_jax.inference import export
from hq_jax.inference import jax_network
from hq_jax.inference import network
from hq_jax.inference import onnx_engine
from hq_jax.inference import onnx_model
from tests.inference import drawn_files

_ARGUMENTS = {'patch_size': 2, 'width': 16, 'depth': 2, 'num_heads': 2}
_SHAPE = (8, 8, 3)


def _draw(**arguments):
  """An artifact, images, and the logits by JAX."""
  artifact = drawn_files.make('vit', _ARGUMENTS | arguments, _SHAPE)
  statistics = {'mean': [120.0] * 3, 'std': [60.0] * 3}
  artifact = artifact._replace(preprocessing=statistics)
  images = drawn_files.draw_images(artifact)
  return artifact, images, jax_network.JaxEngine(artifact).logits(images)


def _assert_close(found, wanted):
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)


def _run_onnx(model, images):
  session = onnxruntime.InferenceSession(
    model, providers=['CPUExecutionProvider']
  )
  (found,) = session.run([onnx_model.OUTPUT], {onnx_model.INPUT: images})
  return found


@pytest.mark.parametrize(
  'arguments', [{'layer_scale': True, 'pool': 'mean'}, {}]
)
def test_logits_are_those_of_flax(arguments):
  # The other two forms are among the networks of the other tests.
  artifact, images, found = _draw(**arguments)
  wanted = drawn_files.apply_flax(artifact, images)
  _assert_close(found, wanted)
  _assert_close(_run_onnx(export.to_onnx(artifact), images), wanted)


def test_kernels_of_all_blocks_are_2_bits():
  content = export.to_onnx(_draw()[0], weights='int2')
  groups = export.conversions.list_kernels(content)
  assert len(groups['int2']) == 1 + 2 * 5
  assert groups['int8'] == ['head']
  # Codewords: see `drawn_files`.
  assert groups['float32'] == [f'blocks/{i}/attention/out' for i in range(2)]


def test_the_state_has_the_names_of_timm():
  artifact, *_ = _draw(layer_scale=True)
  state = safetensors.load(export.to_safetensors(artifact))
  block = ['norm1.weight', 'norm1.bias', 'attn.qkv.weight', 'attn.qkv.bias']
  block += ['attn.proj.weight', 'attn.proj.bias', 'ls1.gamma', 'norm2.weight']
  block += ['norm2.bias', 'mlp.fc1.weight', 'mlp.fc1.bias', 'mlp.fc2.weight']
  block += ['mlp.fc2.bias', 'ls2.gamma']
  assert state.keys() == {
    *('cls_token', 'pos_embed', 'patch_embed.proj.weight'),
    *('patch_embed.proj.bias', 'norm.weight', 'norm.bias', 'head.weight'),
    *('head.bias', *(f'blocks.{i}.{name}' for i in (0, 1) for name in block)),
  }
  attention = artifact_lib.to_variables(artifact)['params']['blocks'][
    'attention'
  ]
  qkv = state['blocks.1.attn.qkv.weight']
  key = attention['key']['kernel'][1].reshape(16, 16).T
  np.testing.assert_array_equal(qkv[16:32], key)
  out = attention['out']['kernel'][1].reshape(16, 16).T
  np.testing.assert_array_equal(state['blocks.1.attn.proj.weight'], out)


def test_activations_of_8_bits(monkeypatch):
  artifact, images, wanted = _draw()
  shown = np.random.default_rng(1).normal(size=(32, *_SHAPE)).astype(np.float32)
  ranges = calibration.measure(artifact, shown)
  # Of a block: what goes into attention, into its output, into the perceptron,
  # and into the second layer of that.
  assert len(ranges) == 2 * 4
  measured = artifact._replace(activation_ranges=ranges)
  engine = onnx_engine.OnnxEngine(measured)
  assert engine.activations == 'int8'
  found = engine.logits(images)
  assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.02
  monkeypatch.setitem(sys.modules, 'jax', None)
  again = calibration.measure(artifact, shown)
  np.testing.assert_allclose(again, ranges, rtol=2**-10)


def test_files_classify(tmp_path):
  artifact, *_ = _draw()
  artifact_lib.write(tmp_path / 'net.hq', artifact)
  pixels = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8)
  one, other = (
    hq_jax.load(tmp_path / 'net.hq', engine).logits(pixels)
    for engine in ('onnxruntime', 'jax')
  )
  _assert_close(one, other)


def test_kernels_that_are_not_ternary_are_computed_with_their_values():
  artifact, images, _ = _draw()
  path = 'params/blocks/mlp/down/kernel'
  values = artifact_lib.to_variables(artifact)['params']['blocks']['mlp'][
    'down'
  ]['kernel']
  codes = np.random.default_rng(4).integers(0, 9, (2, 32, 16), np.uint8)
  words = np.random.default_rng(5).normal(size=(9, 2)).astype(np.float16)
  # A scale for each input is none of outputs: no format has it.
  rows = np.linspace(0.1, 0.3, 64, dtype=np.float32)[None, :, None]
  for kernel in (
    values,
    artifact_lib.quantize_int8(values),
    qtensors.CodebookTensor(codes, words),
    artifact.tensors[path]._replace(scale=rows),
  ):
    changed = artifact._replace(tensors=artifact.tensors | {path: kernel})
    wanted = jax_network.JaxEngine(changed).logits(images)
    model = onnx_model.make_onnx(changed, weights='int2')
    _assert_close(_run_onnx(model, images), wanted)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_heads': 3}, 'num_heads is 3, wanted a divisor of width, 16'),
    ({'patch_size': 3}, 'patch_size is 3, wanted a divisor of the sides of'),
    ({'pool': 'max'}, "pool is 'max', wanted one of: token, mean"),
    ({'depth': 3}, r'has shape \(2, 16\), wanted \(3, 16\)'),
    ({'depth': 10**6}, 'depth is 1000000, wanted an int from 1 to 1000'),
    ({'layer_scale': 1}, 'layer_scale is 1, wanted true or false'),
    ({'pool': 'mean'}, 'position_embedding has shape'),
  ],
)
def test_what_does_not_fit_is_refused(changes, message):
  artifact, *_ = _draw()
  artifact = artifact._replace(model_args=artifact.model_args | changes)
  with pytest.raises(ValueError, match=message):
    network.read_layers(artifact)
