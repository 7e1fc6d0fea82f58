"""Vision transformers: all engines and exports compute the same."""

import base64
import json

import jax
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
from hq_jax.inference.web import export as web_export
from tests.inference import drawn_files
from tests.inference import drawn_vits
from tests.inference.export import test_torch
from tests.inference.web import node


def _draw(pool='token', layer_scale=True):
  """An artifact, images, and the logits by JAX."""
  artifact = drawn_vits.make(pool, layer_scale)
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


@pytest.mark.parametrize(('pool', 'layer_scale'), drawn_vits.FORMS)
def test_onnx_models(pool, layer_scale):
  artifact, images, wanted = _draw(pool, layer_scale)
  for weights in onnx_model.WEIGHTS:
    model = export.to_onnx(artifact, weights=weights)
    _assert_close(_run_onnx(model, images), wanted)
  groups = export.conversions.list_kernels(
    export.to_onnx(artifact, weights='int2')
  )
  assert groups['int8'] == ['patch_embed'] and len(groups['int2']) == 12
  assert groups['float32'] == ['head']


@node.needed
@pytest.mark.parametrize(('pool', 'layer_scale'), drawn_vits.FORMS)
def test_the_browser_has_the_weights_of_its_graph(pool, layer_scale, tmp_path):
  artifact, images, wanted = _draw(pool, layer_scale)
  graph, description = web_export.describe(artifact_lib.dumps(artifact), 'net')
  request = {
    'file': base64.b64encode(artifact_lib.dumps(artifact)).decode(),
    'layers': description['weights'],
  }
  (line,) = node.run('weights.mjs', [json.dumps(request)])
  (tmp_path / 'weights').write_bytes(base64.b64decode(line))
  (tmp_path / 'network.onnx').write_bytes(graph)
  found = _run_onnx(str(tmp_path / 'network.onnx'), images)
  _assert_close(found, wanted)


def test_programs_of_stablehlo():
  artifact, images, wanted = _draw()
  program = jax.export.deserialize(bytearray(export.to_stablehlo(artifact)))
  _assert_close(jax.jit(program.call)(images), wanted)


# Slow, for the quick tests run without PyTorch.
@pytest.mark.slow
@test_torch.needs_torch
@pytest.mark.parametrize(('pool', 'layer_scale'), drawn_vits.FORMS)
def test_modules_of_pytorch(pool, layer_scale):
  import torch

  artifact, images, wanted = _draw(pool, layer_scale)
  moved = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
  with torch.no_grad():
    found = export.to_torch(artifact)(torch.from_numpy(moved)).numpy()
  _assert_close(found, wanted)


def test_the_state_has_the_names_of_timm():
  artifact, *_ = _draw()
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


def test_activations_of_8_bits():
  artifact, images, wanted = _draw()
  calibrated = np.random.default_rng(1).normal(size=(32, 8, 8, 3))
  ranges = calibration.measure(artifact, calibrated.astype(np.float32))
  # Of a block: what goes into attention, into its output, into the perceptron,
  # and into the second layer of that.
  assert len(ranges) == 2 * 4
  measured = artifact._replace(activation_ranges=ranges)
  engine = onnx_engine.OnnxEngine(measured)
  assert engine.activations == 'int8'
  found = engine.logits(images)
  assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.02


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
  artifact = drawn_vits.make('token', False)
  artifact = artifact._replace(model_args=artifact.model_args | changes)
  with pytest.raises(ValueError, match=message):
    network.read_layers(artifact)
