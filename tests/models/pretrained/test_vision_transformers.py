"""Weights of timm and Hugging Face give their logits, in stacked blocks."""

import re

import jax
import numpy as np
import pytest

from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models import vit
from tests import compiling
from tests.models.pretrained import vit_states


def _make(image_side=vit_states.SIDE, **arguments):
  model = vit.ViT(vit_states.NUM_CLASSES, **vit_states.ARGUMENTS, **arguments)
  image = jax.ShapeDtypeStruct((1, image_side, image_side, 3), np.float32)
  return model, jax.eval_shape(model.init, jax.random.key(0), image)


def _to_flax(state, shapes, **kwargs):
  return pretrained.to_flax(state, shapes, architecture='vit', **kwargs)


@pytest.mark.parametrize(
  ('layer_scale', 'num_tokens'), [(False, 17), (True, 16)]
)
def test_the_logits_of_timm(rng, layer_scale, num_tokens):
  state = vit_states.draw_state(layer_scale, num_tokens)
  model, shapes = _make(layer_scale=layer_scale)
  variables = _to_flax(state, shapes)
  images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
  wanted = vit_states.compute_logits(state, images)
  got = compiling.quick_jit(model.apply)(variables, images)
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
  as_shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert as_shapes(variables) == as_shapes(shapes)


def test_there_and_back():
  state = vit_states.draw_state(layer_scale=True)
  _, shapes = _make(layer_scale=True)
  variables = _to_flax(state, shapes)
  back = pretrained.to_torchvision(variables, architecture='vit')
  assert set(back) == set(state)
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], name)


# From the names of timm to those of Hugging Face's files and modules.
_TOP = (
  (r'^cls_token$', 'embeddings.cls_token'),
  (r'^pos_embed$', 'embeddings.position_embeddings'),
  (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
  (r'^norm\.', 'layernorm.'),
  (r'\.norm1\.', '.layernorm_before.'),
  (r'\.norm2\.', '.layernorm_after.'),
)
_FILES = (
  *_TOP,
  (r'^blocks\.', 'encoder.layer.'),
  (r'attn\.([a-z]+)_proj\.', r'attention.attention.\1.'),
  (r'attn\.proj\.', 'attention.output.dense.'),
  (r'mlp\.fc1\.', 'intermediate.dense.'),
  (r'mlp\.fc2\.', 'output.dense.'),
)
_MODULES = (
  *_TOP,
  (r'^blocks\.', 'layers.'),
  (r'attn\.([qkv])[a-z]*_proj\.', r'attention.\1_proj.'),
  (r'attn\.proj\.', 'attention.o_proj.'),
)


def _to_hugging_face(state, prefix, renamings):
  apart = {}
  for name, array in state.items():
    if '.qkv.' in name:
      kinds = ('query', 'key', 'value')
      for kind, part in zip(kinds, np.split(array, 3), strict=True):
        apart[name.replace('qkv', f'{kind}_proj')] = part
    else:
      apart[name] = array
  renamed = {}
  for name, array in apart.items():
    for pattern, replacement in renamings:
      name = re.sub(pattern, replacement, name)
    is_head = name.startswith('head.')
    name = f'classifier{name[4:]}' if is_head else f'{prefix}{name}'
    renamed[name] = array
  return renamed


@pytest.mark.parametrize('prefix', ['vit.', 'deit.', ''])
@pytest.mark.parametrize('renamings', [_FILES, _MODULES])
def test_the_names_of_hugging_face(prefix, renamings):
  state = vit_states.draw_state()
  _, shapes = _make()
  renamed = _to_hugging_face(state, prefix, renamings)
  assert len(renamed) == len(state) + 4 * vit_states.DEPTH
  got = _to_flax(renamed, shapes)
  jax.tree.map(np.testing.assert_array_equal, got, _to_flax(state, shapes))


def test_another_image_size_resizes_the_positions():
  state = vit_states.draw_state()
  rows = np.linspace(-1, 1, 4, dtype=np.float32)
  state['pos_embed'][0, 1:] = np.repeat(rows, 4)[:, None]
  _, shapes = _make(image_side=32)
  params = _to_flax(state, shapes)['params']
  position = params['position_embedding']
  np.testing.assert_array_equal(position[0, 0], state['pos_embed'][0, 0])
  grid = position[0, 1:].reshape(8, 8, vit_states.WIDTH)
  # It still rises from row to row, and is the same in all columns.
  assert np.all(np.diff(grid[1:-1, 0, 0]) > 0.1)
  same = np.broadcast_to(grid[:, :1, :1], grid.shape)
  np.testing.assert_allclose(grid, same, rtol=1e-5)
  np.testing.assert_allclose(grid[3:5, 0, 0], [-1 / 6, 1 / 6], atol=0.02)


def test_a_new_head():
  state = vit_states.draw_state()
  _, shapes = _make()
  wanted = _to_flax(state, shapes)
  del wanted['params']['head']
  headless = {n: x for n, x in state.items() if not n.startswith('head.')}
  headless['pooler.dense.weight'] = np.zeros((12, 12), np.float32)
  for given in (state, headless):
    got = _to_flax(given, shapes, new_head=True)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
  with pytest.raises(ValueError, match='pretrained_head=False trains a new'):
    _to_flax({n: x for n, x in state.items() if n != 'head.bias'}, shapes)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'dist_token': (1, 1, 12)},
      'dist_token is there, wanted weights without a distillation token: vit',
    ),
    (
      {'deit.embeddings.distillation_token': (1, 1, 12)},
      'wanted weights without a distillation token',
    ),
    (
      {'blocks.1.attn.qkv.weight': (24, 12)},
      r'wrong shape: blocks.1.attn.qkv.weight \(24, 12\) for \(36, 12\)',
    ),
    ({'blocks.3.norm1.bias': (12,)}, r'not wanted: blocks.3.norm1.bias\)'),
    ({'fc_norm.weight': (12,)}, r'not wanted: fc_norm.weight\)'),
    ({'pos_embed': (1, 7, 12)}, r'pos_embed \(1, 7, 12\) for \(1, 17, 12\)'),
    ({'pos_embed': (17, 12)}, r'pos_embed \(17, 12\) for \(1, 17, 12\)'),
  ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
  changed = {name: np.zeros(x, np.float32) for name, x in change.items()}
  _, shapes = _make()
  with pytest.raises(ValueError, match=message) as caught:
    _to_flax(vit_states.draw_state() | changed, shapes, path='a.pth')
  assert str(caught.value).startswith('a.pth: ')


def test_weights_of_another_width_are_recognized():
  shapes = trees.flatten(_make()[1])
  state = vit_states.draw_state()
  state['patch_embed.proj.weight'] = np.zeros((384, 3, 16, 16), np.float32)
  with pytest.raises(ValueError, match=r'\), they look like vit_s16$'):
    _to_flax(state, shapes)
