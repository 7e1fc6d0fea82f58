"""A disk that is full in the middle of a run, and larger later."""

import math
import subprocess

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow

_PAGE = 4096


def _count_bytes(folder):
  """What the files of a folder take on a disk of pages."""
  sizes = [path.stat().st_size for path in folder.rglob('*') if path.is_file()]
  return sum(math.ceil(size / _PAGE) * _PAGE for size in sizes)


@pytest.fixture
def mount(tmp_path):
  """Mounts a disk in memory of so many bytes; again, to make it larger."""
  folder = tmp_path / 'disk'
  folder.mkdir()

  def call(size, *options):
    options = ','.join([*options, f'size={size}'])
    words = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder]
    try:
      done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
      pytest.skip('there is no mount here')
    if done.returncode != 0:
      pytest.skip(f'mount is not permitted here: {done.stderr.strip()}')
    return folder

  yield call
  subprocess.run(['umount', folder], capture_output=True)


def test_a_full_disk_is_one_line_and_more_room_is_enough(
  whole, data_dir, mount
):
  # Room for the first stage, and almost two saves of the second.
  dense, compress = (whole / 'checkpoints' / x for x in ('dense', 'compress'))
  room = _count_bytes(dense) + _count_bytes(compress) * 9 // 10
  workdir = mount(room) / 'w'
  done = runs.run_quick(data_dir, workdir)
  assert done.returncode == 2
  line = runs.only_line(done)
  assert line.startswith('hq_jax: ')
  folder = workdir / 'checkpoints' / 'compress'
  assert str(folder) in line
  # Not later than the next save: the second of the stage, of step 6, cannot be
  # written, and the epoch ends with step 10.
  assert runs.num_rows(workdir) == 1
  whole_steps = [x.name for x in folder.iterdir() if x.name.isdigit()]
  assert whole_steps == ['3']
  mount(room * 10, 'remount')
  done = runs.run_quick(data_dir, workdir)
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  assert not moments.is_saving(workdir)
  runs.check_same_end(workdir, whole)
