"""Against timm and Hugging Face's transformers, where they are installed."""

import importlib.util

import jax
import numpy as np
import pytest

from hq_jax import models
from hq_jax.models import pretrained
from tests.models.pretrained import torchvision_models

pytestmark = [
  pytest.mark.slow,
  # Not `importorskip`: both import torchvision, which may need help for it.
  pytest.mark.skipif(
    not all(
      map(importlib.util.find_spec, ('torchvision', 'timm', 'transformers'))
    ),
    reason='torchvision, timm or transformers is not installed',
  ),
]


@pytest.fixture(scope='module')
def libraries():
  """The modules of timm and transformers."""
  torchvision_models.import_torchvision()
  import timm
  import transformers

  return timm, transformers


def _draw_weights(model):
  """Weights of which each one matters."""
  import torch

  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for weight in model.parameters():
      noise = torch.randn(weight.shape, generator=generator)
      is_kernel = weight.ndim in (2, 4)
      scale = weight[0].numel() ** -0.5 if is_kernel else 0.2
      weight.copy_(noise * scale + 0.5 * (weight.ndim == 1))
  return model.eval()


def _assert_equal_logits(model, state, name, arguments, side):
  """Ours with a state dictionary says what theirs does."""
  import torch

  images = np.random.default_rng(0).normal(size=(2, side, side, 3))
  # One is brighter: attention takes the mean of so much noise.
  images = np.float32(images + np.reshape([-1.0, 1.0], (2, 1, 1, 1)))
  with torch.no_grad():
    wanted = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  wanted = getattr(wanted, 'logits', wanted).numpy()
  ours = models.build(name, num_classes=wanted.shape[1], arguments=arguments)
  shapes = jax.eval_shape(ours.init, jax.random.key(0), images)
  variables = pretrained.to_flax(state, shapes, architecture=name)
  got = jax.jit(ours.apply)(variables, images)
  scale = np.abs(wanted).max()
  assert np.ptp(wanted, axis=0).max() > 0.05 * scale
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * max(1, scale))
  return variables


def _to_numpy(model):
  return {name: x.numpy() for name, x in model.state_dict().items()}


@pytest.mark.parametrize(
  ('architecture', 'name', 'arguments'),
  [
    ('vit_tiny_patch16_224', 'vit_ti16', {}),
    ('deit_tiny_patch16_224', 'vit_ti16', {}),
    ('deit3_small_patch16_224', 'vit_s16', {'layer_scale': True}),
    ('vit_base_patch16_224', 'vit_b16', {}),
  ],
)
def test_the_logits_of_timm(libraries, architecture, name, arguments):
  timm, _ = libraries
  model = _draw_weights(timm.create_model(architecture, num_classes=20))
  state = _to_numpy(model)
  variables = _assert_equal_logits(model, state, name, arguments, 224)
  if 'deit3' not in architecture:
    back = pretrained.to_torchvision(variables, architecture=name)
    assert set(back) == set(state)
    for key in state:
      np.testing.assert_array_equal(back[key], state[key], key)


def test_timm_resizes_the_positions_alike(libraries):
  timm, _ = libraries
  make = lambda side: timm.create_model(
    'deit_tiny_patch16_224', num_classes=20, img_size=side
  )
  from timm.models import vision_transformer

  state = _draw_weights(make(224)).state_dict()
  for side in (160, 384):
    model = make(side).eval()
    resized = vision_transformer.checkpoint_filter_fn(dict(state), model)
    model.load_state_dict(resized)
    given = {name: x.numpy() for name, x in state.items()}
    _assert_equal_logits(model, given, 'vit_ti16', {}, side)


def test_the_logits_of_hugging_face(libraries, tmp_path):
  _, transformers = libraries
  config = transformers.ViTConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=192,
    image_size=32,
    patch_size=8,
    num_labels=5,
  )
  model = _draw_weights(transformers.ViTForImageClassification(config))
  model.save_pretrained(tmp_path)
  arguments = {'patch_size': 8, 'width': 48, 'depth': 3, 'num_heads': 4}
  written = pretrained.read(tmp_path / 'model.safetensors')
  assert 'vit.encoder.layer.0.attention.attention.query.weight' in written
  for state in (written, _to_numpy(model)):
    _assert_equal_logits(model, state, 'vit', arguments, 32)


def test_distilled_networks_of_hugging_face_are_refused(libraries):
  _, transformers = libraries
  config = transformers.DeiTConfig(num_hidden_layers=1)
  state = _to_numpy(transformers.DeiTForImageClassification(config))
  with pytest.raises(ValueError, match='without a distillation token'):
    pretrained.to_flax(state, {}, architecture='vit_b16')
