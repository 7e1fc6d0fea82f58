"""A network's weights are found wherever they stand in a file."""

import jax
import numpy as np
import pytest

from hq_jax.models import pretrained
from hq_jax.models import vit
from tests.models.pretrained import vit_states


@pytest.fixture(scope='module')
def state():
  """Weights of a small vision transformer; not to be changed."""
  return vit_states.draw_state()


@pytest.fixture(scope='module')
def shapes():
  model = vit.ViT(vit_states.NUM_CLASSES, **vit_states.ARGUMENTS)
  side = vit_states.SIDE
  image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)


@pytest.fixture
def convert(shapes):
  return lambda state, **kwargs: pretrained.convert(
    state, shapes, architecture='vit', path='a.pth', **kwargs
  )


def _prefix(prefix, state, scale=1):
  return {f'{prefix}{name}': scale * x for name, x in state.items()}


def _assert_scaled(found, wanted, scale=1.0):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, np.float32(scale) * y),
    found,
    wanted,
  )


@pytest.mark.parametrize(
  'prefix',
  [
    *('_orig_mod.', 'module.', 'model.', 'backbone.', 'encoder.'),
    *('timm_model.', 'module._orig_mod.', '_orig_mod.module.', 'net.0.'),
    *('model.encoder.backbone.', 'a name of nobody.', 'state_dict.model.'),
  ],
)
def test_any_prefix(convert, state, prefix):
  found, note = convert(_prefix(prefix, state))
  _assert_scaled(found, convert(state).variables)
  assert note == ''


@pytest.mark.parametrize(
  ('average', 'plain'),
  [
    ('model_ema.', 'model.'),
    ('state_dict_ema.', 'state_dict.'),
    ('ema.module.', 'model.'),
    ('EMA.', 'net.'),
    ('swa_model.module.', 'model.module.'),
  ],
)
@pytest.mark.parametrize('is_first', [True, False])
def test_a_moving_average_goes_first(convert, state, average, plain, is_first):
  parts = [_prefix(average, state, 2.0), _prefix(plain, state)]
  a, b = parts if is_first else parts[::-1]
  found, note = convert(a | b)
  _assert_scaled(found, convert(state).variables, 2.0)
  group = plain.partition('.')[0]
  assert note == (
    f'those under {average[:-1]} (a moving average); left out: {group}'
    f' ({len(state)} tensors)'
  )


def test_an_averaged_model_of_pytorch(convert, state):
  content = {'n_averaged': np.int64(5), **_prefix('module.', state)}
  found, note = convert(content)
  _assert_scaled(found, convert(state).variables)
  assert note == (
    'those under module (a moving average); left out: n_averaged (1 tensor)'
  )


def test_what_comes_first_of_equals_and_what_fits_best(convert, state):
  part = dict(list(_prefix('ema.', state, 3.0).items())[:-4])
  schema = _prefix('schema.', state, 4.0)  # No average.
  found, note = convert(part | _prefix('student.', state, 2.0) | schema)
  _assert_scaled(found, convert(state).variables, 2.0)
  num = len(state)
  assert note == (
    f'those under student; left out: ema ({num - 4} tensors), schema ({num}'
    ' tensors)'
  )


def _without_head(state):
  return {n: x for n, x in state.items() if not n.startswith('head.')}


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_head_of_several_layers(convert, state, prefix):
  head = {
    f'head.{name}': np.ones(shape, np.float32)
    for name, shape in {
      '0.weight': (7, vit_states.WIDTH),
      '0.bias': (7,),
      '3.weight': (2, 7),
      '3.bias': (2,),
    }.items()
  }
  content = _prefix(prefix, _without_head(state) | head)
  found, note = convert(content, new_head=True)
  wanted = convert(state).variables
  del wanted['params']['head']
  _assert_scaled(found, wanted)
  assert note.endswith(f'left out: the head {prefix}head (4 tensors)')
  with pytest.raises(ValueError, match='pretrained_head=False trains a new'):
    convert(content)


def test_a_head_beside_the_rest(convert, state):
  content = _prefix('model.backbone.', _without_head(state)) | {
    'model.head.weight': state['head.weight'],
    'model.head.bias': state['head.bias'],
    'model.neck.weight': np.ones(3, np.float32),
  }
  found, note = convert(content)
  _assert_scaled(found, convert(state).variables)
  assert note == ('those under model.backbone; left out: model.neck (1 tensor)')
  found, note = convert(content, new_head=True)
  assert 'head' not in found['params']
  assert note.endswith('model.head (2 tensors), model.neck (1 tensor)')


def test_pruned_weights_are_multiplied(convert, state, rng):
  names = ['patch_embed.proj.weight', 'head.weight', 'blocks.1.norm1.bias']
  masks = {n: rng.integers(0, 2, state[n].shape) for n in names}
  content = {n: x for n, x in state.items() if n not in names}
  for name, mask in masks.items():
    # Where the mask is 0, the weight that was there is still in the file.
    content[f'{name}_orig'] = state[name]
    content[f'{name}_mask'] = mask.astype(np.float32)
  found, note = convert(_prefix('module.', content))
  wanted = state | {n: state[n] * mask for n, mask in masks.items()}
  _assert_scaled(found, convert(wanted).variables)
  assert note == '3 pruned tensors times their masks'


def test_what_is_not_of_the_network_is_refused(convert, state):
  for prefix in ('', 'module.'):
    content = _prefix(prefix, state | {'neck.\x1b[2J': np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=r'\(not wanted: neck.\\x1b\[2J\)'):
      convert(content)
    content = _prefix(prefix, state | {'head.bias': np.full(5, 2**40)})
    with pytest.raises(ValueError, match=r'head\.bias is int64, wanted'):
      convert(content)


def test_names_of_our_own(convert, state):
  variables = convert(state).variables
  flat = {
    '/'.join(key.key for key in path): x
    for path, x in jax.tree.leaves_with_path(variables)
  }
  found, note = convert(flat)
  _assert_scaled(found, variables)
  assert note == ''
  found, note = convert(flat, new_head=True)
  assert 'head' not in found['params']
  assert note == 'left out: the head (2 tensors)'
  kernel = flat['params/head/kernel']
  for change, message in (
    (kernel.astype(np.int64), 'params/head/kernel is int64, wanted floating'),
    (kernel[:, :-1], 'the head of the weights is not that of the model'),
    (np.nan * kernel, 'has values that are not finite'),
  ):
    with pytest.raises(ValueError, match=message):
      convert(flat | {'params/head/kernel': change})
