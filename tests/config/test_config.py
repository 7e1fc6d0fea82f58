"""Config fields: their defaults, their checks, and config arguments."""

import dataclasses
import json
import math
import re

import ml_collections
import pytest

from hq_jax import config as config_lib

_NAN, _INF = float('nan'), float('inf')
_SEED = 'an int in [0, 2**31)'
_POSITIVE = 'a positive number'
_FRACTION = 'a fraction in [0, 1)'
_CLOSED = 'a fraction in [0, 1]'
_SHARE = 'a fraction in (0, 1]'
_HALF = 'a fraction in [0.5, 1]'
_PIXELS = 'an int of 1 to 4096'
_ALPHA = '0, or a number of 1e-3 to 1e3'
_FINITE = 'a finite number of at least 0'
_WIDTHS = 'widths of at least 1'
_BLOCKS = 'numbers of at least 1'
_DTYPE = 'float32 or bfloat16'

# Values on the edge of what each field takes.
_GOOD = {
  'seed': (0, 2**31 - 1),
  'target_ratio': (1.0001, 1e6),
  'fill_target': (False,),
  'max_error': (1e-9, 0.5),
  'pretrained': (None, 'a.pth'),
  'pretrained_head': (False,),
  'batch_size': (1, 4096),
  'max_skipped_steps': (0, 5),
  'measure_bias': (True,),
  'checkpoint.every_epochs': (1, 100),
  'checkpoint.every_steps': (None, 1, 5000),
  'checkpoint.keep': (2, 10),
  'checkpoint.keep_every_epochs': (None, 1, 10),
  'checkpoint.keep_best': (True,),
  'mesh.fsdp': (1, 8),
  'data.name': ('other',),
  'data.data_dir': (None, '/data'),
  'data.train_split': (None, 'train[:90%]'),
  'data.test_split': (None, 'test'),
  'data.image_size': (None, 1, 4096),
  'data.crop_fraction': (0.5, 1.0),
  'data.min_area': (0.001, 1.0),
  'data.flip': (True,),
  'data.max_shift': (0, 3),
  'data.mixup_alpha': (0.0, 1e-3, 1e3),
  'data.cutmix_alpha': (0.0, 1e-3, 1e3),
  'data.max_unreadable': (0, 10**6),
  'data.num_threads': (None, 1, 96),
  'model.name': ('other',),
  'model.widths': (None, (1,), (16, 32, 64)),
  'model.num_blocks': (None, (1,), (2, 2, 2)),
  'model.dtype': ('float32', 'bfloat16'),
  'optimizer.name': ('sgd',),
  'optimizer.weight_decay': (0.0, 3.0),
  'optimizer.label_smoothing': (0.0, 0.999),
  'distill.weight': (0.0, 1.0),
  'distill.temperature': (1e-3, 20.0),
  'recipe.sparsity': (None, 0.0, 0.999),
  'recipe.distribution': ('erdos_renyi_kernel',),
  'recipe.scope': ('tree', '2:4'),
  'recipe.initial_sparsity': (0.0, 0.9),
  'recipe.ramp': ('linear', 'one_shot'),
  'recipe.num_stages': (1, 9),
  'recipe.reinit_strength': (0.0, 1.0),
  'recipe.refresh_steps': (1, 9),
  'recipe.tangent': (False,),
  'recipe.project': (False,),
  'recipe.prune': (False,),
  'recipe.prune_gradients': ('straight_through',),
  'recipe.reinit': (False,),
  'recipe.straight_through': (False,),
  'quantizer.name': ('binary',),
  'quantizer.bits': (2, 8),
  'quantizer.group_size': (1, 9),
  'quantizer.num_codewords': (2, 256),
}
for _phase in ('dense', 'prune', 'ternary'):
  _GOOD |= {
    f'{_phase}.epochs': (0, 90),
    f'{_phase}.learning_rate': (1e-9, 10.0),
    f'{_phase}.warmup_fraction': (0.0, 0.999),
    f'{_phase}.final_fraction': (0.0, 1.0),
  }

# For each field, values that it refuses and what it says it wanted.
_INTS = (True, 1.0, '1', None, _NAN, [1])
_FLOATS = (True, '1', None, [1.0], 10**400)
_BAD = {
  'seed': {_SEED: (-1, 2**31), 'int': _INTS},
  'target_ratio': {
    'a number above 1': (1.0, 0.0, -30.0, _NAN, _INF, -_INF),
    'float': (True, '30', [30.0], 10**400),
  },
  'fill_target': {'bool': (1, 0, None, 'true')},
  'max_error': {_POSITIVE: (0.0, -1e-3, _NAN, _INF), 'float': _FLOATS},
  'pretrained': {'str': (3, True, b'a.pth')},
  'pretrained_head': {'bool': (1, 0, None, 'true')},
  'batch_size': {'at least 1': (0, -64), 'int': _INTS},
  'max_skipped_steps': {'at least 0': (-1,), 'int': _INTS},
  'measure_bias': {'bool': (1, 0, None)},
  'checkpoint.every_epochs': {'at least 1': (0, -1), 'int': _INTS},
  'checkpoint.every_steps': {'at least 1': (0, -1), 'int': (True, 1.0)},
  'checkpoint.keep': {'at least 2': (1, 0, -1), 'int': _INTS},
  'checkpoint.keep_every_epochs': {'at least 1': (0,), 'int': (True, 1.0)},
  'checkpoint.keep_best': {'bool': (1, 0, None, 'true')},
  'mesh.fsdp': {'at least 1': (0, -1), 'int': _INTS},
  'data.name': {'str': (None, 3, b'digits')},
  'data.data_dir': {'str': (3, True, ['/data'])},
  'data.train_split': {'str': (3, True)},
  'data.test_split': {'str': (3, True)},
  'data.image_size': {_PIXELS: (0, -1, 4097), 'int': (True, 1.0, '1', _NAN)},
  'data.crop_fraction': {_HALF: (0.0, 0.49, 1.1, _NAN), 'float': _FLOATS},
  'data.min_area': {_SHARE: (0.0, -0.1, 1.1, _NAN), 'float': _FLOATS},
  'data.flip': {'bool': (1, 0, None, 'true')},
  'data.max_shift': {'at least 0': (-1,), 'int': _INTS},
  'data.mixup_alpha': {
    _ALPHA: (-1e-9, 1e-40, 1e39, _NAN, _INF),
    'float': _FLOATS,
  },
  'data.cutmix_alpha': {
    _ALPHA: (-1e-9, 1e-40, 1e39, _NAN, _INF),
    'float': _FLOATS,
  },
  'data.max_unreadable': {'at least 0': (-1,), 'int': _INTS},
  'data.num_threads': {'at least 1': (0, -1), 'int': (True, 1.0, '1')},
  'model.name': {'str': (None, 3)},
  'model.widths': {
    _WIDTHS: ((), (0,), (8, -1)),
    'tuple': (8, '8', (8.0,), (True,), ('8',), {8: 8}),
  },
  'model.num_blocks': {_BLOCKS: ((), (0, 1)), 'tuple': (1, (1.0,))},
  'model.dtype': {_DTYPE: ('float16', ''), 'str': (None, 32)},
  'optimizer.name': {'str': (None, 3)},
  'optimizer.weight_decay': {
    _FINITE: (-1e-9, _NAN, _INF, -_INF),
    'float': _FLOATS,
  },
  'optimizer.label_smoothing': {
    _FRACTION: (-0.1, 1.0, _NAN, _INF),
    'float': _FLOATS,
  },
  'distill.weight': {_CLOSED: (-0.1, 1.1, _NAN, _INF), 'float': _FLOATS},
  'distill.temperature': {_POSITIVE: (0.0, -1.0, _NAN), 'float': _FLOATS},
  'recipe.sparsity': {
    _FRACTION: (1.0, -0.1, _NAN, _INF, -_INF),
    'float': (True, '0.9', 10**400),
  },
  'recipe.distribution': {'str': (None, 3)},
  'recipe.scope': {'str': (None, 4)},
  'recipe.initial_sparsity': {'float': _FLOATS},
  'recipe.ramp': {'str': (None, 3)},
  'recipe.num_stages': {'int': _INTS},
  'recipe.reinit_strength': {'float': _FLOATS},
  'recipe.refresh_steps': {'int': _INTS},
  'recipe.tangent': {'bool': (1, 0, None, 'true')},
  'recipe.project': {'bool': (1,)},
  'recipe.prune': {'bool': (1,)},
  'recipe.prune_gradients': {'str': (None, 3)},
  'recipe.reinit': {'bool': (1,)},
  'recipe.straight_through': {'bool': (1,)},
  'quantizer.name': {'str': (None, 3)},
  'quantizer.bits': {'an int of 2 to 8': (1, 9), 'int': _INTS},
  'quantizer.group_size': {'at least 1': (0, -1), 'int': _INTS},
  'quantizer.num_codewords': {
    'an int of 2 to 256': (1, 257),
    'int': _INTS,
  },
}
for _phase in ('dense', 'prune', 'ternary'):
  _BAD |= {
    f'{_phase}.epochs': {'at least 0': (-1,), 'int': _INTS},
    f'{_phase}.learning_rate': {
      _POSITIVE: (0.0, -1e-3, _NAN, _INF),
      'float': _FLOATS,
    },
    f'{_phase}.warmup_fraction': {
      _FRACTION: (-0.1, 1.0, _NAN),
      'float': _FLOATS,
    },
    f'{_phase}.final_fraction': {
      _CLOSED: (-0.1, 1.1, _NAN, _INF),
      'float': _FLOATS,
    },
  }


def _nest(name, value):
  """`{'data': {'name': value}}` for 'data.name'."""
  for part in reversed(name.split('.')):
    value = {part: value}
  return value


def _get(config, name):
  for part in name.split('.'):
    config = getattr(config, part)
  return config


def _leaves(record, prefix=''):
  for field in dataclasses.fields(record):
    value = getattr(record, field.name)
    if dataclasses.is_dataclass(value):
      yield from _leaves(value, f'{prefix}{field.name}.')
    else:
      yield f'{prefix}{field.name}'


def _message(call, *args, **kwargs):
  with pytest.raises(ValueError) as caught:
    call(*args, **kwargs)
  return str(caught.value)


def test_the_tables_above_name_every_field():
  names = set(_leaves(config_lib.Config()))
  assert set(_GOOD) == names
  assert set(_BAD) == names


def test_defaults_are_those_of_the_typed_config():
  assert config_lib.validate(config_lib.get_defaults()) == config_lib.Config()
  assert config_lib.validate({}) == config_lib.Config()


@pytest.mark.parametrize('name', _GOOD)
def test_values_on_the_edge_are_taken_as_they_are(name):
  for value in _GOOD[name]:
    found = _get(config_lib.validate(_nest(name, value)), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('name', _BAD)
def test_values_beyond_are_refused_by_name(name):
  for wanted, values in _BAD[name].items():
    for value in values:
      message = _message(config_lib.validate, _nest(name, value))
      assert message == f'config.{name} is {value!r}, wanted {wanted}'


def test_an_int_becomes_a_float_and_a_list_a_tuple():
  config = config_lib.validate(
    {'target_ratio': 40, 'model': {'widths': [8, 16]}, 'recipe': {}}
  )
  assert config.target_ratio == 40.0
  assert type(config.target_ratio) is float
  assert config.model.widths == (8, 16)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (
      {'sed': 1},
      'config.sed is 1, but there is no such field; wanted one of: seed,'
      ' target_ratio, fill_target, max_error, pretrained, pretrained_head,'
      ' batch_size, max_skipped_steps, measure_bias, checkpoint, mesh, data,'
      ' model, optimizer, distill, dense, prune, ternary, recipe, quantizer;'
      ' did you mean seed?',
    ),
    (
      {'data': {'nme': 'digits'}},
      "config.data.nme is 'digits', but there is no such field; wanted one of:"
      ' name, data_dir, train_split, test_split, image_size, crop_fraction,'
      ' min_area, flip, max_shift, mixup_alpha, cutmix_alpha, max_unreadable,'
      ' num_threads; did you mean name?',
    ),
    (
      {'seed': {'a': 1}},
      "config.seed is {'a': 1}, wanted int",
    ),
    ({'data': 'digits'}, "config.data is 'digits', wanted a group of fields"),
    ({'recipe': None}, 'config.recipe is None, wanted a group of fields'),
    (
      {'target_ratio': None},
      'config.target_ratio and config.recipe.sparsity are both None, wanted one'
      ' of them',
    ),
    (
      {'prune': {'epochs': 0}, 'ternary': {'epochs': 0}},
      'config.prune.epochs and config.ternary.epochs are both 0, wanted one of'
      ' them at least 1',
    ),
  ],
)
def test_what_does_not_fit_is_refused(values, message):
  assert _message(config_lib.validate, values) == message


@pytest.mark.parametrize('phase', ['prune', 'ternary'])
def test_one_phase_of_the_two_may_be_left_out(phase):
  assert config_lib.validate(_nest(f'{phase}.epochs', 0))


def test_the_config_dict_is_locked_at_every_depth():
  config = config_lib.get_defaults()
  with pytest.raises(AttributeError, match='sed'):
    config.sed = 1
  with pytest.raises(AttributeError, match='sparsty'):
    config.recipe.sparsty = 0.9


def test_optional_fields_can_be_set_in_a_config_file():
  config = config_lib.get_defaults()
  assert config.data.data_dir is None
  assert config.recipe.sparsity is None
  config.data.data_dir = '/data'
  config.recipe.sparsity = 0.9
  config.target_ratio = None
  found = config_lib.validate(config)
  assert found.data.data_dir == '/data'
  assert found.recipe.sparsity == 0.9
  assert found.target_ratio is None
  with pytest.raises(TypeError, match='sparsity'):
    config.recipe.sparsity = 'much'


def test_a_config_dict_is_checked_like_a_dictionary():
  config = ml_collections.ConfigDict({'data': {'max_shift': -1}})
  message = 'config.data.max_shift is -1, wanted at least 0'
  assert _message(config_lib.validate, config) == message


def test_the_config_cannot_be_changed():
  config = config_lib.Config()
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.seed = 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.data.name = 'other'


def test_to_dict_survives_json():
  config = config_lib.validate(
    {'seed': 3, 'target_ratio': 1 / 3 + 30, 'model': {'widths': (8, 16)}}
  )
  text = json.dumps(config_lib.to_dict(config), allow_nan=False)
  found = json.loads(text)
  assert found['model']['widths'] == [8, 16]
  assert found == config_lib.to_dict(config)
  assert config_lib.validate(found) == config


def test_which_fields_may_be_none():
  for name in _leaves(config_lib.Config()):
    wanted = None in _GOOD[name] or name == 'target_ratio'
    assert config_lib.is_optional(name) == wanted, name


def test_check_field():
  for name in ('seed', 'recipe.sparsity', 'data', 'prune.epochs'):
    config_lib.check_field(name, '1')


@pytest.mark.parametrize(
  ('name', 'suggestion'),
  [
    ('', ''),
    ('zzz', ''),
    ('sed', 'seed'),
    ('data.nme', 'data.name'),
    ('recipe.sparsty', 'recipe.sparsity'),
    ('refresh_steps', 'recipe.refresh_steps'),  # Its group is missing.
    ('data.name.x', 'data.name'),
  ],
)
def test_a_field_that_does_not_exist_is_refused(name, suggestion):
  message = f"config.{name} is '1', but there is no such field"
  if suggestion:
    message += f'; did you mean {suggestion}?'
  assert _message(config_lib.check_field, name, '1') == message


def test_the_help_has_every_field_and_its_meaning():
  config = config_lib.get_defaults()
  config.data.max_shift = 3
  text = config_lib.describe('configs/digits.py', config)
  assert text.startswith('A 30x smaller file from a small ResNet')
  assert '`ratio` (float32 bytes over file bytes, default 30)' in text
  for name in _leaves(config_lib.Config()):
    found = re.search(rf'^  --config\.{name}=(.*)\n {{8}}\S', text, re.M)
    assert found, name
  assert '--config.data.max_shift=3  (default 0; at least 0)\n' in text
  assert '--config.recipe.refresh_steps=20\n        steps between' in text
  assert '\n--config.recipe: the method.\n' in text


def _parse(text):
  return vars(
    config_lib.parse_arguments(text, ratio=30.0, seed=0, debug=False, name='a')
  )


_DEFAULTS = {'ratio': 30.0, 'seed': 0, 'debug': False, 'name': 'a'}


@pytest.mark.parametrize(
  ('text', 'changed'),
  [
    (None, {}),
    ('', {}),
    ('ratio=40', {'ratio': 40.0}),
    ('ratio=1e2,seed=7', {'ratio': 100.0, 'seed': 7}),
    ('debug', {'debug': True}),
    ('debug=True', {'debug': True}),
    ('debug=1', {'debug': True}),
    ('debug=FALSE', {}),
    ('debug,debug=0', {}),
    (',seed=-1,', {'seed': -1}),
    ('seed=1,seed=2', {'seed': 2}),
    ('name=b', {'name': 'b'}),
    ('name=b=c', {'name': 'b=c'}),
    ('name=', {'name': ''}),
  ],
)
def test_arguments_are_converted(text, changed):
  found = _parse(text)
  assert found == _DEFAULTS | changed
  assert [type(x) for x in found.values()] == [float, int, bool, str]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'ration=4',
      'ration is not known, wanted one of: ratio, seed, debug, name; did you'
      ' mean ratio?',
    ),
    ('=4', ' is not known, wanted one of: ratio, seed, debug, name'),
    ('ratio=x', "ratio is 'x', wanted float"),
    ('ratio', "ratio is '', wanted float"),
    ('seed=1.5', "seed is '1.5', wanted int"),
    ('seed=', "seed is '', wanted int"),
    ('debug=yes', "debug is 'yes', wanted bool"),
    ('debug=', "debug is '', wanted bool"),
  ],
)
def test_arguments_are_refused(text, message):
  assert _message(_parse, text) == f'config argument {message}'


def test_not_a_number_passes_the_argument_but_not_the_config():
  found = _parse('ratio=nan')['ratio']
  assert math.isnan(found)
  message = _message(config_lib.validate, {'target_ratio': found})
  assert message == 'config.target_ratio is nan, wanted a number above 1'
