"""Checkpoints: what comes back is what was saved, to the bit, or an error."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax.runtime import checkpoint
from tests.runtime.checkpoint import states


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_state_comes_back_to_the_bit(open_checkpoints, dtype):
  state = states.make_state(1, dtype=dtype)
  like = states.make_state(2, dtype=dtype)
  open_checkpoints().save(7, state, states.make_iterator())
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() == 7
  found = checkpoints.restore(like)
  states.assert_identical(found, state)
  assert type(found.opt_state) is type(state.opt_state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == states.sharding()
    assert len(leaf.addressable_shards) == 8
  # `like` says how, not what: it stays as it was.
  states.assert_identical(like, states.make_state(2, dtype=dtype))


@pytest.mark.parametrize(('before', 'after'), [(8, 4), (1, 8)])
def test_the_number_of_devices_may_change(open_checkpoints, before, after):
  state = states.make_state(1, devices=before)
  open_checkpoints().save(1, state, states.make_iterator())
  found = open_checkpoints().restore(states.make_state(2, devices=after))
  states.assert_identical(found, state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == states.sharding(after)


def test_the_iterator_goes_on_where_it_was(open_checkpoints):
  iterator = states.make_iterator()
  # Beyond the first epoch of 23 numbers.
  for _ in range(7):
    next(iterator)
  open_checkpoints().save(7, states.make_state(), iterator)
  wanted = [next(iterator) for _ in range(3)]
  other = states.make_iterator()
  next(other)
  open_checkpoints().restore(states.make_state(), other)
  for batch in wanted:
    np.testing.assert_array_equal(next(other), batch)


def test_what_was_saved_is_of_that_moment(open_checkpoints):
  state, iterator = states.make_state(1), states.make_iterator()
  checkpoints = open_checkpoints()
  checkpoints.save(1, state, iterator)
  # The next step takes over the memory of the last.
  change = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  change(state)
  next(iterator)
  # Without an iterator only the state is restored.
  states.assert_identical(
    checkpoints.restore(states.make_state(2)), states.make_state(1)
  )
  assert iterator.get_state() == {'next_index': 1}


def test_the_newest_two_steps_are_kept(open_checkpoints, tmp_path):
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() is None
  for step in (1, 5, 9, 20):
    checkpoints.save(step, states.make_state(step), states.make_iterator())
    assert checkpoints.latest_step() == step
  checkpoints.wait()
  steps = [x for x in os.listdir(tmp_path / 'steps') if x.isdigit()]
  assert set(steps) == {'9', '20'}
  states.assert_identical(
    checkpoints.restore(states.make_state()), states.make_state(20)
  )


@pytest.mark.parametrize('step', [5, 3])
def test_a_step_is_saved_once_and_in_order(open_checkpoints, step):
  checkpoints = open_checkpoints()
  checkpoints.save(5, states.make_state(1), states.make_iterator())
  with pytest.raises(RuntimeError) as caught:
    checkpoints.save(step, states.make_state(2), states.make_iterator())
  assert str(caught.value) == (
    f'step {step} was not saved: is it there already?'
  )
  states.assert_identical(
    checkpoints.restore(states.make_state()), states.make_state(1)
  )


def test_an_empty_folder_holds_no_checkpoint(open_checkpoints, tmp_path):
  with pytest.raises(ValueError) as caught:
    open_checkpoints().restore(states.make_state())
  assert str(caught.value) == f'{tmp_path}/steps holds no checkpoint'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    # Orbax alone would cast.
    (
      {'dtype': jnp.bfloat16},
      'params/dense/kernel is float32[4, 3], wanted bfloat16[4, 3]',
    ),
    (
      {'tx': optax.adam(0.1)},
      'opt_state/0/count is not there, wanted int32[]',
    ),
  ],
)
def test_another_state_is_refused(open_checkpoints, tmp_path, changes, message):
  checkpoints = open_checkpoints()
  checkpoints.save(3, states.make_state(), states.make_iterator())
  with pytest.raises(ValueError) as caught:
    checkpoints.restore(states.make_state(**changes))
  text = str(caught.value)
  assert text.startswith(f'{tmp_path}/steps/3: ') and message in text


def test_some_steps_are_kept_for_good_and_the_best(tmp_path):
  scores = {1: 0.2, 2: 0.3, 3: 0.9, 4: 0.5, 5: 0.2, 6: 0.1}
  checkpoints = checkpoint.Checkpoints(
    str(tmp_path), keep=2, keep_every=2, get_score=scores.get
  )
  for step in scores:
    checkpoints.save(
      step, states.make_state(tx=optax.identity()), states.make_iterator()
    )
  checkpoints.close()
  kept = {x for x in os.listdir(tmp_path) if x.isdigit()}
  assert kept == {'2', '3', '4', '5', '6'}


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


@pytest.mark.skipif(
  len(getattr(os, 'sched_getaffinity', lambda _: [0])(0)) < 2,
  reason='there is one core',
)
def test_another_number_of_cores_is_told(open_checkpoints, caplog):
  cores = os.sched_getaffinity(0)
  open_checkpoints().save(1, states.make_state(1), states.make_iterator())
  open_checkpoints().restore(states.make_state(2))
  assert 'was saved elsewhere' not in caplog.text
  try:
    os.sched_setaffinity(0, {min(cores)})
    found = open_checkpoints().restore(states.make_state(2))
  finally:
    os.sched_setaffinity(0, cores)
  states.assert_identical(found, states.make_state(1))
  assert (
    f'was saved elsewhere (cores {len(cores)}, here 1): the run goes on, and'
    ' ends with other bits than it would have there'
  ) in caplog.text


def test_an_array_that_is_being_written_may_be_donated(tmp_path):
  # Of many bytes: the writing goes on while the next step takes the memory.
  make = lambda: jax.device_put(
    {'a': np.arange(1 << 21, dtype=np.float32)}, states.sharding()
  )
  state = make()
  change = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0
  )
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(1, state, states.make_iterator())
  for _ in range(3):
    state = change(state)
  assert (np.asarray(state['a']) == -1).all()
  states.assert_identical(checkpoints.restore(make()), make())
  checkpoints.close()


def test_a_step_of_another_config_is_refused(tmp_path, caplog):
  open_with = lambda config: checkpoint.Checkpoints(str(tmp_path), config)
  config = {'seed': 0, 'mesh': {'fsdp': 1}, 'checkpoint': {'keep': 2}}
  first = open_with(config)
  first.save(1, states.make_state(1), states.make_iterator())
  first.close()
  # How it is computed and kept is no matter.
  same = open_with({'seed': 0, 'mesh': {'fsdp': 4}, 'checkpoint': {'keep': 9}})
  states.assert_identical(
    same.restore(states.make_state()), states.make_state(1)
  )
  same.close()
  other = open_with(config | {'seed': 3, 'x': 1, 'y': 2, 'z': 3})
  with pytest.raises(ValueError) as caught:
    other.restore(states.make_state())
  other.close()
  assert str(caught.value) == (
    f'{tmp_path}/1 is of another config: config.seed is 0 there and 3 here;'
    ' config.x is None there and 1 here; config.y is None there and 2 here; and'
    ' 1 more'
  )
  # It is no damage.
  assert os.listdir(tmp_path) == ['1'] and states.warnings_of(caplog) == []


# In a process of its own: the limit is that of a process, and threads of Orbax
# complain of it until the end.
_FULL = """
import json, resource, sys, time
import numpy as np
from hq_jax.runtime import checkpoint

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
