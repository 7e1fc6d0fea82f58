"""Checkpoints: what comes back is what was saved, to the bit, or an error."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import checkpoint
from hq_jax import train_state
from hq_jax import transforms
from hq_jax.checkpoint import manager
from hq_jax.data import datasets
from hq_jax.data import pipeline
from hq_jax.data import sources

_TX = transforms.hq(
  optax.adam(0.1), transforms.Recipe(sparsity=0.5, prune_steps=8)
)


def _sharding(num_devices=8):
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    devices=jax.devices()[:num_devices],
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _make_state(
  seed=0, *, tx=_TX, shape=(4, 3), dtype=np.float32, extra=False, devices=8
):
  """A state with all kinds of floats in it."""
  rng = np.random.default_rng(seed)
  params = {
    'dense': {
      'kernel': jnp.asarray(rng.normal(size=shape), dtype),
      'bias': jnp.array([-0.0, np.inf, np.nan], jnp.float32),
    },
    'tiny': jnp.float32(rng.normal(size=5) * 1e-42),
  }
  if extra:
    params['extra'] = jnp.zeros(2)
  stats = {'norm': {'mean': jnp.float32(rng.normal(size=3))}}
  state = train_state.TrainState(
    jnp.int32(seed), params, stats, tx.init(params)
  )
  return jax.device_put(state, _sharding(devices))


def _make_iterator():
  rng = np.random.default_rng(0)
  split = sources.MemorySource(
    rng.integers(0, 17, (23, 4, 4, 1)).astype(np.uint8),
    rng.integers(0, 10, 23).astype(np.int32),
  )
  dataset = datasets.Dataset(
    name='random',
    class_names=tuple('0123456789'),
    image_shape=(4, 4, 1),
    pixel_range=(0.0, 16.0),
    pixel_mean=(8.0,),
    pixel_std=(5.0,),
    train=split,
    test=split,
  )
  return pipeline.make_train_iterator(
    dataset, batch_size=4, seed=3, max_shift=1
  )


@pytest.fixture
def open_checkpoints(tmp_path):
  """Opens the folder, again and again; everything is closed at the end."""
  opened = []

  def open_again():
    for found in opened:
      found.wait()
    opened.append(checkpoint.Checkpoints(str(tmp_path / 'steps')))
    return opened[-1]

  yield open_again
  for found in opened:
    found.close()


def _assert_identical(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.array(one).tobytes() == np.array(other).tobytes()


def test_a_state_comes_back_to_the_bit(open_checkpoints):
  state, like = _make_state(1), _make_state(2)
  open_checkpoints().save(7, state, _make_iterator())
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() == 7
  found = checkpoints.restore(like)
  _assert_identical(found, state)
  assert type(found.opt_state) is type(state.opt_state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == _sharding()
    assert len(leaf.addressable_shards) == 8
  # `like` says how, not what: it stays as it was.
  _assert_identical(like, _make_state(2))


def test_bfloat16_comes_back_as_it_is(open_checkpoints):
  state = _make_state(1, dtype=jnp.bfloat16)
  checkpoints = open_checkpoints()
  checkpoints.save(1, state, _make_iterator())
  _assert_identical(
    checkpoints.restore(_make_state(2, dtype=jnp.bfloat16)), state
  )


@pytest.mark.parametrize(('before', 'after'), [(8, 4), (1, 8)])
def test_the_number_of_devices_may_change(open_checkpoints, before, after):
  state = _make_state(1, devices=before)
  open_checkpoints().save(1, state, _make_iterator())
  found = open_checkpoints().restore(_make_state(2, devices=after))
  _assert_identical(found, state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == _sharding(after)


def test_the_iterator_goes_on_where_it_was(open_checkpoints):
  iterator = _make_iterator()
  # Beyond the first epoch of 23 images.
  for _ in range(7):
    next(iterator)
  open_checkpoints().save(7, _make_state(), iterator)
  wanted = [next(iterator) for _ in range(3)]
  other = _make_iterator()
  next(other)
  open_checkpoints().restore(_make_state(), other)
  for batch in wanted:
    jax.tree.map(np.testing.assert_array_equal, next(other), batch)


def test_without_an_iterator_only_the_state_is_restored(open_checkpoints):
  iterator = _make_iterator()
  checkpoints = open_checkpoints()
  checkpoints.save(1, _make_state(1), iterator)
  next(iterator)
  _assert_identical(checkpoints.restore(_make_state(2)), _make_state(1))
  assert iterator.get_state() == {'next_index': 1}


def test_what_was_saved_is_of_that_moment(open_checkpoints):
  state = _make_state(1)
  checkpoints = open_checkpoints()
  checkpoints.save(1, state, _make_iterator())
  # The next step takes over the memory of the last.
  change = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  change(state)
  _assert_identical(checkpoints.restore(_make_state(2)), _make_state(1))


def test_the_newest_two_steps_are_kept(open_checkpoints, tmp_path):
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() is None
  for step in (1, 5, 9, 20):
    checkpoints.save(step, _make_state(step), _make_iterator())
    assert checkpoints.latest_step() == step
  checkpoints.wait()
  steps = [x for x in os.listdir(tmp_path / 'steps') if x.isdigit()]
  assert set(steps) == {'9', '20'}
  _assert_identical(checkpoints.restore(_make_state()), _make_state(20))


@pytest.mark.parametrize('step', [5, 3])
def test_a_step_is_saved_once_and_in_order(open_checkpoints, step):
  checkpoints = open_checkpoints()
  checkpoints.save(5, _make_state(1), _make_iterator())
  with pytest.raises(RuntimeError) as caught:
    checkpoints.save(step, _make_state(2), _make_iterator())
  assert str(caught.value) == (
    f'step {step} was not saved: is it there already?'
  )
  _assert_identical(checkpoints.restore(_make_state()), _make_state(1))


def test_an_empty_folder_holds_no_checkpoint(open_checkpoints, tmp_path):
  with pytest.raises(ValueError) as caught:
    open_checkpoints().restore(_make_state())
  assert str(caught.value) == f'{tmp_path}/steps holds no checkpoint'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'shape': (5, 3)},
      'params/dense/kernel is float32[4, 3], wanted float32[5, 3]',
    ),
    (
      {'shape': (3, 4)},
      'params/dense/kernel is float32[4, 3], wanted float32[3, 4]',
    ),
    # Orbax alone would cast.
    (
      {'dtype': jnp.bfloat16},
      'params/dense/kernel is float32[4, 3], wanted bfloat16[4, 3]',
    ),
    (
      {'dtype': np.int32},
      'params/dense/kernel is float32[4, 3], wanted int32[4, 3]',
    ),
    ({'extra': True}, 'params/extra is not there, wanted float32[2]'),
    (
      {'tx': optax.adam(0.1)},
      'opt_state/0/count is not there, wanted int32[]',
    ),
    (
      {'tx': optax.identity()},
      'opt_state/latents/dense/kernel is float32[4, 3], wanted no such array',
    ),
  ],
)
def test_another_state_is_refused(open_checkpoints, tmp_path, changes, message):
  if changes.get('dtype') is np.int32:
    changes = changes | {'tx': optax.identity()}
  checkpoints = open_checkpoints()
  checkpoints.save(3, _make_state(), _make_iterator())
  with pytest.raises(ValueError) as caught:
    checkpoints.restore(_make_state(**changes))
  text = str(caught.value)
  assert text.startswith(f'{tmp_path}/steps/3: ') and message in text


def test_what_differs_is_counted(open_checkpoints, tmp_path):
  checkpoints = open_checkpoints()
  checkpoints.save(3, _make_state(tx=optax.adam(0.1)), _make_iterator())
  with pytest.raises(ValueError) as caught:
    checkpoints.restore(_make_state(tx=optax.identity()))
  (line,) = str(caught.value).splitlines()
  # The count, and both moments of the kernel, of the bias and of the other.
  assert line.startswith(f'{tmp_path}/steps/3: opt_state/0/count is int32[],')
  assert line.count(', wanted no such array') == 3
  assert line.endswith('; and 4 more')


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def _make_large(seed=0):
  """With an array that has a file of its own, and no optimizer."""
  return _make_state(seed, tx=optax.identity(), shape=(64, 3, 16))


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
  """A folder with the steps 4 and 8, saved for real."""
  folder = tmp_path_factory.mktemp('two') / 'steps'
  checkpoints = checkpoint.Checkpoints(str(folder))
  iterator = _make_iterator()
  for step in (4, 8):
    for _ in range(4):
      next(iterator)
    checkpoints.save(step, _make_large(step), iterator)
  checkpoints.close()
  return folder


@pytest.fixture
def steps(two_steps, tmp_path):
  """A copy of it to damage, which `open_checkpoints` opens."""
  return shutil.copytree(two_steps, tmp_path / 'steps')


def _warnings(caplog):
  """Of the manager; and no line of what Orbax makes of it."""
  found = [r for r in caplog.records if r.levelname in ('WARNING', 'ERROR')]
  assert {r.pathname for r in found} <= {manager.__file__}
  return [r.getMessage() for r in found]


def _find_files(step):
  """The files of a step that Orbax cannot do without.

  It also leaves some behind that it never reads again: what the array files of
  the process held is merged into `state/d`, but for the largest array.
  """
  parts = [p for p in step.glob('state/ocdbt.process_0/d/*') if p.is_file()]
  return [
    *(step / 'data' / 'metadata', step / 'meta' / 'metadata'),
    *(step / 'state' / '_METADATA', step / 'state' / 'manifest.ocdbt'),
    *sorted(step.glob('state/d/*')),
    max(parts, key=lambda path: path.stat().st_size),
  ]


def _damage(rng, path):
  """Flips a bit of a file, cuts it short or deletes it."""
  data = bytearray(path.read_bytes())
  # A flipped bit of the list of arrays may be in a word that nobody reads.
  kind = rng.integers(1 if path.name == '_METADATA' else 0, 3)
  # In the middle: at either end of the arrays' file, in an order that is not
  # always the same, there may be what is never read.
  place = rng.integers(len(data) // 4, 3 * len(data) // 4)
  if kind == 0:
    data[place] ^= 1 << rng.integers(8)
    path.write_bytes(data)
  elif kind == 1:
    path.write_bytes(data[:place])
  else:
    path.unlink()


def _assert_falls_back(checkpoints, steps, caplog):
  damaged = _files(steps / '8')
  iterator = _make_iterator()
  state = checkpoints.restore(_make_large(), iterator)
  (line,) = _warnings(caplog)
  assert line.startswith(f'{steps}/8 ')
  assert line.endswith(': moved to damaged/8, step 4 is used')
  assert '\n' not in line
  assert _files(steps / 'damaged' / '8') == damaged
  assert sorted(os.listdir(steps)) == ['4', 'damaged']
  assert checkpoints.latest_step() == 4
  _assert_identical(state, _make_large(4))
  assert iterator.get_state() == {'next_index': 4}


@pytest.mark.parametrize(
  'seed',
  [*range(8), *(pytest.param(i, marks=pytest.mark.slow) for i in range(8, 80))],
)
def test_random_damage_is_noticed(open_checkpoints, steps, caplog, seed):
  rng = np.random.default_rng(seed)
  files = _find_files(steps / '8')
  assert len(files) >= 6
  _damage(rng, files[seed % len(files)])
  _assert_falls_back(open_checkpoints(), steps, caplog)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(40))
def test_no_damage_changes_a_bit(open_checkpoints, steps, seed):
  rng = np.random.default_rng(seed)
  paths = [p for p in sorted((steps / '8').rglob('*')) if p.is_file()]
  _damage(rng, paths[rng.integers(len(paths))])
  # Of either step: some files are never read.
  state = open_checkpoints().restore(_make_large())
  _assert_identical(state, _make_large(int(state.step)))
  assert (steps / 'damaged' / '8').exists() == (int(state.step) == 4)


@pytest.mark.parametrize('name', ['state', 'data', 'meta', 'meta/metadata'])
def test_what_is_missing_is_noticed(open_checkpoints, steps, caplog, name):
  path = steps / '8' / name
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  _assert_falls_back(open_checkpoints(), steps, caplog)


@pytest.mark.parametrize(
  ('item', 'old', 'new'),
  [('data', '8', '9'), ('meta', 'bias', 'bios'), ('meta', '"step"', '"stop"')],
)
def test_another_json_is_noticed(
  open_checkpoints, steps, caplog, item, old, new
):
  path = steps / '8' / item / 'metadata'
  text = path.read_text()
  assert json.loads(text) and old in text
  path.write_text(text.replace(old, new, 1))
  _assert_falls_back(open_checkpoints(), steps, caplog)


def test_the_leaf_with_other_bits_is_named(open_checkpoints, steps, caplog):
  # The arrays of step 4 with all else of step 8: only fingerprints tell.
  shutil.rmtree(steps / '8' / 'state')
  shutil.copytree(steps / '4' / 'state', steps / '8' / 'state')
  _assert_falls_back(open_checkpoints(), steps, caplog)
  (line,) = _warnings(caplog)
  assert ' has other bits than were saved in step, params/dense/kernel,' in line
  assert ' more: moved to ' in line


def test_an_empty_folder_is_set_aside(open_checkpoints, steps, caplog):
  checkpoints = open_checkpoints()
  for count in range(1, 4):
    (steps / '12').mkdir()
    caplog.clear()
    checkpoints = open_checkpoints()
    assert int(checkpoints.restore(_make_large()).step) == 8
    name = 'damaged/12' if count == 1 else f'damaged/12.{count}'
    assert _warnings(caplog) == [
      f'{steps}/12 has no state: moved to {name}, step 8 is used'
    ]
  assert sorted(os.listdir(steps / 'damaged')) == ['12', '12.2', '12.3']
  checkpoints.save(12, _make_large(12), _make_iterator())
  _assert_identical(checkpoints.restore(_make_large()), _make_large(12))


def test_without_a_good_step_all_stay(open_checkpoints, steps):
  (steps / '8' / 'meta' / 'metadata').write_text('{}')
  shutil.rmtree(steps / '4' / 'state')
  (steps / '12').mkdir()
  before = _files(steps)
  with pytest.raises(ValueError) as caught:
    open_checkpoints().restore(_make_large())
  assert str(caught.value) == (
    f'{steps} holds no checkpoint that is whole: step 12 has no state; step 8'
    ' has another data or meta than was saved; step 4 has no state'
  )
  assert _files(steps) == before
  assert sorted(os.listdir(steps)) == ['12', '4', '8']


def test_another_state_sets_nothing_aside(open_checkpoints, steps, caplog):
  (steps / '12').mkdir()
  before = _files(steps)
  with pytest.raises(ValueError, match='steps/8: params/dense/kernel is'):
    open_checkpoints().restore(_make_state(tx=optax.identity()))
  assert _files(steps) == before
  assert sorted(os.listdir(steps)) == ['12', '4', '8']
  assert _warnings(caplog) == []


def test_some_steps_are_kept_for_good(tmp_path):
  checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=2, keep_every=2)
  for step in range(1, 6):
    checkpoints.save(step, _make_state(tx=optax.identity()), _make_iterator())
  checkpoints.close()
  assert {x for x in os.listdir(tmp_path) if x.isdigit()} == {'2', '4', '5'}


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'keep': 1}, 'keep is 1, wanted at least 2 steps'),
    ({'keep_every': 0}, 'keep_every is 0, wanted at least 1 step'),
  ],
)
def test_bad_options_are_refused(tmp_path, options, message):
  with pytest.raises(ValueError) as caught:
    checkpoint.Checkpoints(str(tmp_path), **options)
  assert str(caught.value) == message


def test_an_array_that_is_being_written_may_be_donated(tmp_path):
  # Of many bytes: the writing goes on while the next step takes the memory.
  make = lambda: jax.device_put(
    {'a': np.arange(1 << 21, dtype=np.float32)}, _sharding()
  )
  state = make()
  change = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0
  )
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(1, state, _make_iterator())
  for _ in range(3):
    state = change(state)
  assert (np.asarray(state['a']) == -1).all()
  _assert_identical(checkpoints.restore(make()), make())
  checkpoints.close()


def test_a_step_of_another_config_is_refused(tmp_path, caplog):
  open_with = lambda config: checkpoint.Checkpoints(str(tmp_path), config)
  config = {'seed': 0, 'mesh': {'fsdp': 1}, 'checkpoint': {'keep': 2}}
  first = open_with(config)
  first.save(1, _make_state(1), _make_iterator())
  first.close()
  # How it is computed and kept is no matter.
  same = open_with({'seed': 0, 'mesh': {'fsdp': 4}, 'checkpoint': {'keep': 9}})
  _assert_identical(same.restore(_make_state()), _make_state(1))
  same.close()
  other = open_with(config | {'seed': 3})
  with pytest.raises(ValueError) as caught:
    other.restore(_make_state())
  other.close()
  assert str(caught.value) == (
    f'{tmp_path}/1 is of another config: config.seed is 0 there and 3 here'
  )
  # It is no damage.
  assert os.listdir(tmp_path) == ['1'] and _warnings(caplog) == []


def test_the_best_step_stays_though_it_is_old(tmp_path):
  scores = {1: 0.2, 2: 0.9, 3: 0.4, 4: 0.5, 5: 0.3}
  checkpoints = checkpoint.Checkpoints(str(tmp_path), get_score=scores.get)
  for step in scores:
    checkpoints.save(step, _make_state(tx=optax.identity()), _make_iterator())
  checkpoints.close()
  assert {x for x in os.listdir(tmp_path) if x.isdigit()} == {'2', '4', '5'}


# In a process of its own: the limit is that of a process, and threads of Orbax
# complain of it until the end.
_FULL = """
import json, resource, sys, time
import numpy as np
from hq_jax import checkpoint

class Iterator:
  def get_state(self):
    return {'next_index': 3}

def make(number):
  # Numbers that cannot be made small: Orbax compresses them.
  return {'a': np.random.default_rng(number).random((64, 64), np.float32)}

def check(checkpoints):
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    checkpoints.check()
    time.sleep(0.02)

calls = {
  'check': check,
  'wait': lambda checkpoints: checkpoints.wait(),
  'save': lambda checkpoints: checkpoints.save(12, make(12), Iterator()),
  'close': lambda checkpoints: checkpoints.close(),
}
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for name in sys.argv[2:]:
  folder = f'{sys.argv[1]}/{name}'
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save(4, make(4), Iterator())
  checkpoints.wait()
  checkpoints.check()
  resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
  found = None
  try:
    checkpoints.save(11, make(11), Iterator())
    calls[name](checkpoints)
  except OSError as error:
    found = str(error)
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  checkpoints = checkpoint.Checkpoints(folder)
  state = checkpoints.restore(make(0))
  is_whole = np.array_equal(state['a'], make(4)['a'])
  print(json.dumps([found, checkpoints.latest_step(), is_whole]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('call', ['check', 'wait', 'save', 'close'])
def test_what_cannot_be_written_is_told(tmp_path, call):
  found = subprocess.run(
    [sys.executable, '-c', _FULL, str(tmp_path), call],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stderr
  message, latest, is_whole = json.loads(found.stdout)
  assert message is not None
  assert message.startswith(
    f'{tmp_path}/{call}: a checkpoint cannot be written ('
  )
  assert '\n' not in message
  # The step before is as it was.
  assert latest == 4 and is_whole
