"""Config fields: their defaults, their checks, and config arguments."""

import dataclasses
import json
import math
import pathlib
import re

import ml_collections
import pytest

from hq_jax import config as config_lib
from hq_jax.runtime import workdir

_NAN, _INF = float('nan'), float('inf')
# Values that a field of a type refuses, whatever else it takes.
_WRONG = {
  'int': (True, 1.0, '1', _NAN, [1]),
  'float': (True, '1', [1.0], 10**400),
  'bool': (1, 0, 'true'),
  'str': (3, True, b'a', ['a']),
  'tuple[int, ...]': (8, '8', (8.0,), (True,), ('8',), {8: 8}),
  'tuple[str, ...]': ('jsonl', (3,), (None,), {'jsonl': 1}),
}
_POSITIVE = ('a positive number', (0.0, -1e-3, _NAN, _INF))
_FRACTION = ('a fraction in [0, 1)', (1.0, -0.1, _NAN, _INF, -_INF))
_CLOSED = ('a fraction in [0, 1]', (-0.1, 1.1, _NAN, _INF))
_ALPHA = ('0, or a number of 1e-3 to 1e3', (-1e-9, 1e-40, 1e39, _NAN, _INF))
_AT_LEAST = lambda least: (f'at least {least}', (least - 1, -64))

# For each field its type, values on the edge of what it takes, what it says it
# wanted beyond, and values there.
_FIELDS = {
  'seed': ('int', (0, 2**31 - 1), 'an int in [0, 2**31)', (-1, 2**31)),
  'target_ratio': (
    *('float', (1.0001, 1e6), 'a number above 1'),
    (1.0, 0.0, -30.0, _NAN, _INF, -_INF),
  ),
  'fill_target': ('bool', (False,)),
  'max_error': ('float', (1e-9, 0.5), *_POSITIVE),
  'pretrained': ('str', (None, 'a.pth')),
  'pretrained_head': ('bool', (False,)),
  'dense_from': ('str', (None, 'runs/earlier')),
  'batch_size': ('int', (1, 4096), *_AT_LEAST(1)),
  'max_skipped_steps': ('int', (0, 5), *_AT_LEAST(0)),
  'trackers': (
    *('tuple[str, ...]', ((), ('wandb', 'jsonl'))),
    *('some of jsonl, tensorboard, wandb', (('mlflow',), ('jsonl', ''))),
  ),
  'measure_bias': ('bool', (True,)),
  'checkpoint.every_epochs': ('int', (1, 100), *_AT_LEAST(1)),
  'checkpoint.every_steps': ('int', (None, 1, 5000), *_AT_LEAST(1)),
  'checkpoint.keep': ('int', (2, 10), *_AT_LEAST(2)),
  'checkpoint.keep_every_epochs': ('int', (None, 1, 10), *_AT_LEAST(1)),
  'checkpoint.keep_best': ('bool', (True,)),
  'mesh.fsdp': ('int', (1, 8), *_AT_LEAST(1)),
  'data.name': ('str', ('other',)),
  'data.data_dir': (
    *('str', (None, '/data')),
    'a folder of a file system: mount the bucket, as by gcsfuse',
    ('gs://bucket/data',),
  ),
  'data.class_names': ('tuple[str, ...]', (None, ('cat', 'dog'))),
  'data.train_split': ('str', (None, 'train[:90%]')),
  'data.test_split': ('str', (None, 'test')),
  'data.image_size': (
    *('int', (None, 1, 4096), 'an int of 1 to 4096', (0, -1, 4097)),
  ),
  'data.crop_fraction': (
    *('float', (0.5, 1.0), 'a fraction in [0.5, 1]', (0.0, 0.49, 1.1, _NAN)),
  ),
  'data.min_area': (
    *('float', (0.001, 1.0), 'a fraction in (0, 1]', (0.0, -0.1, 1.1, _NAN)),
  ),
  'data.flip': ('bool', (True,)),
  'data.max_shift': ('int', (0, 3), *_AT_LEAST(0)),
  'data.max_erased': ('float', (0.0, 0.999), *_FRACTION),
  'data.mixup_alpha': ('float', (0.0, 1e-3, 1e3), *_ALPHA),
  'data.cutmix_alpha': ('float', (0.0, 1e-3, 1e3), *_ALPHA),
  'data.max_unreadable': ('int', (0, 10**6), *_AT_LEAST(0)),
  'data.num_threads': ('int', (None, 1, 96), *_AT_LEAST(1)),
  'data.num_workers': ('int', (0, 1, 32), *_AT_LEAST(0)),
  'model.name': ('str', ('other',)),
  'model.widths': (
    *('tuple[int, ...]', (None, (1,), (16, 32, 64)), 'widths of at least 1'),
    ((), (0,), (8, -1)),
  ),
  'model.num_blocks': (
    *('tuple[int, ...]', (None, (1,), (2, 2, 2)), 'numbers of at least 0'),
    ((), (-1, 1)),
  ),
  'model.patch_size': ('int', (None, 1, 16), *_AT_LEAST(1)),
  'model.width': ('int', (None, 1, 384), *_AT_LEAST(1)),
  'model.depth': ('int', (None, 1, 12), *_AT_LEAST(1)),
  'model.num_heads': ('int', (None, 1, 6), *_AT_LEAST(1)),
  'model.pool': ('str', (None, 'token', 'mean'), 'token or mean', ('max', '')),
  'model.layer_scale': ('bool', (None, True, False)),
  'model.dtype': (
    *('str', ('float32', 'bfloat16'), 'float32 or bfloat16', ('float16', '')),
  ),
  'optimizer.name': ('str', ('sgd',)),
  'optimizer.weight_decay': (
    *('float', (0.0, 3.0), 'a finite number of at least 0'),
    (-1e-9, _NAN, _INF, -_INF),
  ),
  'optimizer.class_weights': (
    *('str', (None, 'balanced'), 'balanced or None', ('equal', '')),
  ),
  'optimizer.label_smoothing': ('float', (0.0, 0.999), *_FRACTION),
  'distill.weight': ('float', (0.0, 1.0), *_CLOSED),
  'distill.temperature': ('float', (1e-3, 20.0), *_POSITIVE),
  'recipe.sparsity': ('float', (None, 0.0, 0.999), *_FRACTION),
  'recipe.distribution': ('str', ('erdos_renyi_kernel',)),
  'recipe.scope': ('str', ('tree', '2:4')),
  'recipe.initial_sparsity': ('float', (0.0, 0.9)),
  'recipe.ramp': ('str', ('linear', 'one_shot')),
  'recipe.num_stages': ('int', (1, 9)),
  'recipe.reinit_strength': ('float', (0.0, 1.0)),
  'recipe.refresh_steps': ('int', (1, 9)),
  'recipe.tangent': ('bool', (False,)),
  'recipe.project': ('bool', (False,)),
  'recipe.prune': ('bool', (False,)),
  'recipe.prune_gradients': ('str', ('masked',)),
  'recipe.reinit': ('bool', (False,)),
  'recipe.straight_through': ('bool', (False,)),
  'quantizer.name': ('str', ('binary',)),
  'quantizer.bits': ('int', (2, 8), 'an int of 2 to 8', (1, 9)),
  'quantizer.group_size': ('int', (1, 9), *_AT_LEAST(1)),
  'quantizer.num_codewords': ('int', (2, 256), 'an int of 2 to 256', (1, 257)),
  'quantizer.int8': ('tuple[str, ...]', ((), ('conv_stem', 'head'))),
}
for _phase in ('dense', 'prune', 'ternary'):
  _FIELDS |= {
    f'{_phase}.epochs': ('int', (0, 90), *_AT_LEAST(0)),
    f'{_phase}.learning_rate': ('float', (1e-9, 10.0), *_POSITIVE),
    f'{_phase}.warmup_fraction': ('float', (0.0, 0.999), *_FRACTION),
    f'{_phase}.final_fraction': ('float', (0.0, 1.0), *_CLOSED),
  }
# `target_ratio` may be None where a sparsity is given.
_OPTIONAL = {'target_ratio', *(n for n, f in _FIELDS.items() if None in f[1])}


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


def test_the_table_above_names_every_field():
  assert set(_FIELDS) == set(_leaves(config_lib.Config()))


def test_defaults_are_those_of_the_typed_config():
  assert config_lib.validate(config_lib.get_defaults()) == config_lib.Config()
  assert config_lib.validate({}) == config_lib.Config()


@pytest.mark.parametrize('name', _FIELDS)
def test_values_on_the_edge_are_taken_as_they_are(name):
  for value in _FIELDS[name][1]:
    found = _get(config_lib.validate(_nest(name, value)), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('name', _FIELDS)
def test_values_beyond_are_refused_by_name(name):
  kind, _, *beyond = _FIELDS[name]
  wrong = _WRONG[kind] if name in _OPTIONAL else (*_WRONG[kind], None)
  cases = [(kind, value) for value in wrong]
  if beyond:
    cases += [(beyond[0], value) for value in beyond[1]]
  for wanted, value in cases:
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
      ' dense_from, batch_size, max_skipped_steps, trackers, measure_bias,'
      ' checkpoint, mesh, data, model, optimizer, distill, dense, prune,'
      ' ternary, recipe, quantizer; did you mean seed?',
    ),
    (
      {'data': {'nme': 'digits'}},
      "config.data.nme is 'digits', but there is no such field; wanted one of:"
      ' name, data_dir, class_names, train_split, test_split, image_size,'
      ' crop_fraction, min_area, flip, max_shift, max_erased, mixup_alpha,'
      ' cutmix_alpha, max_unreadable, num_threads, num_workers; did you mean'
      ' name?',
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


def test_the_config_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    config_lib.Config().data.name = 'other'


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
  assert {n for n in _FIELDS if config_lib.is_optional(n)} == _OPTIONAL


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
    ('name=/a,b, c,seed=3', {'name': '/a,b, c', 'seed': 3}),
    ('name=/a,/b=c', {'name': '/a,/b=c'}),
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
    (
      'name=a,debg',
      'debg is not known, wanted one of: ratio, seed, debug, name; did you mean'
      ' debug?',
    ),
    (
      'name=a,size=3',
      'size is not known, wanted one of: ratio, seed, debug, name',
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
  config = ml_collections.ConfigDict({'target_ratio': found})
  message = _message(config_lib.validate, config)
  assert message == 'config.target_ratio is nan, wanted a number above 1'


def test_a_run_of_an_earlier_version_goes_on():
  # Fields that came later count as what runs did before.
  path = pathlib.Path(__file__).with_name('old_config.json')
  theirs = json.loads(path.read_text())
  ours = config_lib.to_dict(config_lib.validate(config_lib.get_defaults()))
  assert not workdir.find_differences(theirs, ours)
  ours['data']['max_erased'] = 0.1
  assert workdir.find_differences(theirs, ours) == [
    'config.data.max_erased is 0.0 there and 0.1 here'
  ]
