"""Damaged steps: each is noticed, and the one before is used."""

import json
import os
import shutil

import numpy as np
import optax
import pytest

from hq_jax.runtime import checkpoint
from tests.runtime.checkpoint import states


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def _make_large(seed=0):
  """With an array that has a file of its own, and no optimizer."""
  return states.make_state(seed, tx=optax.identity(), shape=(64, 3, 16))


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
  """A folder with the steps 4 and 8, saved for real."""
  folder = tmp_path_factory.mktemp('two') / 'steps'
  checkpoints = checkpoint.Checkpoints(str(folder))
  iterator = states.make_iterator()
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
  """Flips a bit of a file, cuts it short or deletes it; whether it flipped."""
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
  return kind == 0


def _assert_falls_back(checkpoints, steps, caplog):
  damaged = _files(steps / '8')
  iterator = states.make_iterator()
  state = checkpoints.restore(_make_large(), iterator)
  (line,) = states.warnings_of(caplog)
  assert line.startswith(f'{steps}/8 ')
  assert line.endswith(': moved to damaged/8, step 4 is used')
  assert '\n' not in line
  assert _files(steps / 'damaged' / '8') == damaged
  assert sorted(os.listdir(steps)) == ['4', 'damaged']
  assert checkpoints.latest_step() == 4
  states.assert_identical(state, _make_large(4))
  assert iterator.get_state() == {'next_index': 4}


@pytest.mark.parametrize(
  'seed',
  [*range(6), *(pytest.param(i, marks=pytest.mark.slow) for i in range(6, 60))],
)
def test_random_damage_is_noticed(open_checkpoints, steps, caplog, seed):
  rng = np.random.default_rng(seed)
  files = _find_files(steps / '8')
  assert len(files) >= 6
  is_flipped = _damage(rng, files[seed % len(files)])
  if is_flipped and files[seed % len(files)].parent.name == 'd':
    # How the arrays lie in their files differs from time to time, and with it
    # whether a bit is one that anybody reads: if not, nothing has changed.
    state = open_checkpoints().restore(_make_large())
    if int(state.step) == 8:
      states.assert_identical(state, _make_large(8))
      assert not states.warnings_of(caplog)
      return
    states.assert_identical(state, _make_large(4))
    assert (steps / 'damaged' / '8').exists()
    return
  _assert_falls_back(open_checkpoints(), steps, caplog)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(40))
def test_no_damage_changes_a_bit(open_checkpoints, steps, seed):
  rng = np.random.default_rng(seed)
  paths = [p for p in sorted((steps / '8').rglob('*')) if p.is_file()]
  _damage(rng, paths[rng.integers(len(paths))])
  # Of either step: some files are never read.
  state = open_checkpoints().restore(_make_large())
  states.assert_identical(state, _make_large(int(state.step)))
  assert (steps / 'damaged' / '8').exists() == (int(state.step) == 4)


@pytest.mark.parametrize('name', ['state', 'data', 'meta'])
def test_what_is_missing_is_noticed(open_checkpoints, steps, caplog, name):
  shutil.rmtree(steps / '8' / name)
  _assert_falls_back(open_checkpoints(), steps, caplog)


@pytest.mark.parametrize(
  ('item', 'old', 'new'), [('data', '8', '9'), ('meta', 'bias', 'bios')]
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
  (line,) = states.warnings_of(caplog)
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
    assert states.warnings_of(caplog) == [
      f'{steps}/12 has no state: moved to {name}, step 8 is used'
    ]
  assert sorted(os.listdir(steps / 'damaged')) == ['12', '12.2', '12.3']
  checkpoints.save(12, _make_large(12), states.make_iterator())
  states.assert_identical(checkpoints.restore(_make_large()), _make_large(12))


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
    open_checkpoints().restore(states.make_state(tx=optax.identity()))
  assert _files(steps) == before
  assert sorted(os.listdir(steps)) == ['12', '4', '8']
  assert states.warnings_of(caplog) == []
