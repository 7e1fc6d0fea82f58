import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import scale
from hq_jax import transforms
from hq_jax.runtime import collectives
from hq_jax.runtime import sharding
from hq_jax.training import train_state
from tests import markdown


@pytest.mark.parametrize(
  ('fn', 'goes', 'kind', 'num_bytes'),
  [
    (lambda x: x, (), 'all-gather', 16 * 8 * 4),
    (lambda x: x.sum(0), (), 'all-reduce', 8 * 4),
    # Two rows on each device, and then one column.
    (lambda x: x, (None, 'fsdp'), 'all-to-all', 16 * 4),
    (lambda x: 2 * x, ('fsdp',), None, 0),
  ],
)
def test_collectives_of_compiled_functions(fn, goes, kind, num_bytes):
  mesh = sharding.make_mesh(8)
  place = lambda *axes: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*axes)
  )
  compiled = (
    jax.jit(fn, in_shardings=place('fsdp'), out_shardings=place(*goes))
    .lower(jax.ShapeDtypeStruct((16, 8), jnp.float32))
    .compile()
  )
  found = collectives.count(compiled.as_text())
  counts = {name: x['count'] for name, x in found.items() if x['count']}
  assert counts == ({kind: 1} if kind else {})
  assert sum(x['bytes'] for x in found.values()) == num_bytes


def _make_state(num_devices):
  mesh = jax.make_mesh(
    (1, num_devices),
    sharding.make_mesh().axis_names,
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:num_devices],
  )
  arrays = {
    'kernel': np.zeros((6, 4), np.float32),
    'uneven': np.zeros((3, 5), np.float32),
    'bias': np.zeros(4, np.float32),
  }
  latents = {'kernel': np.zeros((6, 4), np.float32)}
  state = train_state.TrainState(
    step=np.zeros((), np.int32),
    params=arrays,
    batch_stats={'mean': np.zeros(4, np.float32)},
    opt_state=transforms.StraightThroughState(
      latents=latents,
      made_count=np.zeros((), np.int32),
      skipped_count=np.zeros((), np.int32),
      replaced_count=np.zeros((), np.int32),
      quantizer_state=(),
      latent_opt_state=optax.TraceState(arrays),
    ),
  )
  return sharding.to_devices(state, mesh)


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_the_bytes_of_a_state(num_devices):
  found = scale.measure_state(_make_state(num_devices))
  kernel = 6 * 4 * 4 // num_devices
  other = 3 * 5 * 4 + 4 * 4
  assert found['parts'] == {
    'params': {'per_device': kernel + other, 'whole': 96 + other},
    'latents': {'per_device': kernel, 'whole': 96},
    'optimizer': {'per_device': kernel + other + 12, 'whole': 96 + other + 12},
    'statistics': {'per_device': 16 + 4, 'whole': 16 + 4},
  }
  per_device = 3 * kernel + 2 * other + 12 + 20
  whole = 3 * 96 + 2 * other + 12 + 20
  assert found['bytes'] == {'per_device': per_device, 'whole': whole}
  assert found['fraction_per_device'] == per_device / whole


def test_the_fullest_device_counts():
  first, second = jax.devices()[:2]
  arrays = [
    jax.device_put(jnp.zeros(size), device)
    for size, device in ((3, first), (5, second), (1, first), (0, second))
  ]
  assert scale.count_bytes(arrays) == {'per_device': 20, 'whole': 36}
  assert scale.count_bytes({}) == {'per_device': 0, 'whole': 0}


def test_a_row_of_the_table():
  nothing = {'count': 0, 'bytes': 0, 'largest_bytes': 0}
  row = {
    'devices': 8,
    'bytes': {'per_device': 2_500_000, 'whole': 20_000_000},
    'fraction_per_device': 0.125,
    'step_memory': {'temp': 7_000_000},
    'init_memory': None,
    'collectives': dict.fromkeys(collectives.KINDS, nothing)
    | {'all-gather': {'count': 3, 'bytes': 1_500_000, 'largest_bytes': 1}},
    'step_seconds': 0.25,
  }
  ((header, line),) = markdown.read_tables(scale.make_table([row]))
  assert header[-3:] == ['init: temporary, MB', 'all-gather', 'step, s']
  assert line == ['8', '2.5', '0.1250', '7.0', '', '3: 1.5', '0.250']


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--devices=1,0', "--devices is '1,0', wanted numbers of at least 1: 1,2"),
    ('--devices=3', '--batch_size is 16, wanted a multiple of the 3 devices'),
    ('--model=vgg', "--model is 'vgg', wanted one of: mlp, small_resnet,"),
    ('--optimizer=x', "--optimizer is 'x', wanted one of: adamw, sgd, lion"),
  ],
)
def test_a_bad_argument_is_refused(argument, message, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['scale', argument])
  with pytest.raises(SystemExit) as caught:
    scale.main()
  assert caught.value.code == 2
  assert f'error: {message}' in capsys.readouterr().err


def test_devices_that_are_not_there_give_no_row():
  assert (
    scale.measure(
      jax.device_count() + 1,
      model='small_resnet',
      optimizer='sgd',
      image_size=8,
      batch_size=9,
      num_rounds=1,
      seed=0,
    )
    is None
  )


@pytest.mark.slow
def test_each_number_of_devices_is_measured():
  settings = 'model=small_resnet image_size=8 batch_size=8 rounds=1 devices=1,8'
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.scale']
    + [f'--{setting}' for setting in settings.split()],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  *table, last = done.stdout.splitlines()
  found = json.loads(last)
  one, eight = found['rows']
  ((_, *rows),) = markdown.read_tables('\n'.join(table))
  assert [row[0] for row in rows] == ['1', '8']
  assert found['hardware']['device'] == '8 x cpu'
  assert one['fraction_per_device'] == 1
  assert one['bytes']['whole'] == eight['bytes']['whole']
  assert 1 / 8 < found['fraction_per_device_8'] < 1.1 / 8
  assert found['fraction_per_device_8'] == eight['fraction_per_device']
  # Alone, a device talks to nobody; of eight, each weight is gathered once, in
  # tiles, and nothing that is cut along the batch is cut anew.
  assert not any(kind['count'] for kind in one['collectives'].values())
  talk = eight['collectives']
  assert talk['all-to-all']['count'] == 0
  assert talk['collective-permute']['count'] == 0
  params = eight['parts']['params']['whole']
  assert 0.9 * params < talk['all-gather']['bytes'] < 1.2 * params
  # Numbers of channels are gathered, too.
  scattered = 8 * talk['reduce-scatter']['bytes']
  assert 0.98 * talk['all-gather']['bytes'] < scattered
  assert talk['all-gather']['largest_bytes'] < params / 2
  for row in found['rows']:
    assert row['step_seconds'] > 0
    # The next state lies where the last one was.
    assert row['step_memory']['alias'] == row['bytes']['per_device']
  # Nothing is whole on a device while the first state is made.
  made = eight['init_memory']['output'] + eight['init_memory']['temp']
  assert made < one['bytes']['whole'] / 4
