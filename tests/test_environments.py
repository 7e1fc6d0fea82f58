"""Commands where a home, a backend, a locale or a cache is not what it is."""

import os
import subprocess
import sys

import pytest

from hq_jax import artifact
from hq_jax.data.sets import array_files
from hq_jax.data.tfds import lookup
from tests import runs
from tests.inference import drawn_files

# Nothing can be made in a file, whoever tries.
_NO_HOME = {
  'HOME': '/dev/null',
  'XDG_CACHE_HOME': '/dev/null/caches',
  'MPLCONFIGDIR': '/dev/null/matplotlib',
  'JAX_COMPILATION_CACHE_DIR': '/dev/null/compiled',
}


def _run(data_dir, *words, **settings):
  """A command in an environment that is changed; what it printed."""
  return subprocess.run(
    [sys.executable, '-m', *words],
    cwd=runs.ROOT,
    env=runs.quick_environment(data_dir) | settings,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  'words',
  [
    ('hq_jax.main', f'--config={runs.DEBUG}', '--workdir=none'),
    ('hq_jax.main', f'--config={runs.DEBUG}', '--evaluate=FILE'),
    ('hq_jax', 'export', 'FILE', '--to=stablehlo', '--output=none'),
  ],
  ids=['train', 'evaluate', 'export'],
)
def test_devices_that_are_not_there_are_one_line(data_dir, tmp_path, words):
  path = tmp_path / 'a.hq'
  artifact.write(path, drawn_files.make('mlp', {'widths': [4]}, (8, 8, 1)))
  words = [word.replace('FILE', str(path)) for word in words]
  done = _run(data_dir, *words, JAX_PLATFORMS='nonsense')
  assert done.returncode == 2
  assert runs.only_line(done).startswith(
    "hq_jax: JAX_PLATFORMS is 'nonsense', wanted devices that are there: "
  )
  assert not (runs.ROOT / 'none').exists()


def test_paths_without_a_home_folder_are_refused():
  message = "data_dir is '~no_such_user/a', but there is no home folder here"
  for find in (lookup.get_root, array_files.open_npz, array_files.open_idx):
    with pytest.raises(ValueError, match=message):
      find('~no_such_user/a')


@pytest.mark.parametrize('field', ['data_dir', 'workdir'])
def test_no_home_folder_is_one_line(data_dir, field):
  path = '~no_such_user/a'
  workdir = path if field == 'workdir' else 'none'
  found = path if field == 'data_dir' else str(data_dir)
  done = _run(
    data_dir,
    *('hq_jax.main', f'--config={runs.DEBUG}', f'--workdir={workdir}'),
    **_NO_HOME | {'TFDS_DATA_DIR': found},
  )
  assert done.returncode == 2
  message = f'{field} is {path!r}, but there is no home folder here'
  assert message in runs.only_line(done)
  assert not (runs.ROOT / '~no_such_user').exists()


@pytest.mark.slow
def test_a_run_needs_no_home_no_backend_of_a_notebook_and_no_locale(
  data_dir, tmp_path
):
  workdir = tmp_path / 'Läufe'
  words = ('hq_jax.main', *runs.QUICK, f'--workdir={workdir}')
  settings = _NO_HOME | {'MPLBACKEND': 'inline', 'LC_ALL': 'C'}
  # What lies in the way stays there: the same command would not go on.
  (workdir / 'report.md').mkdir(parents=True)
  done = _run(data_dir, *words, **settings)
  assert done.returncode == 2, done.stderr
  said = done.stderr.splitlines()
  assert said[0] == (
    'hq_jax: what is compiled is not kept: [Errno 20] Not a directory:'
    " '/dev/null/compiled'"
  )
  assert 'Is a directory' in said[-1] and 'report.md' in said[-1]
  (workdir / 'report.md').rmdir()
  done = _run(data_dir, *words, **settings)
  assert done.returncode == 0, done.stderr
  assert {'report.html', 'summary.png'} <= set(os.listdir(workdir))
  assert f'model: {workdir}/model.hq' in done.stdout
  for command in (['inspect'], ['export', '--to=onnx']):
    words = 'hq_jax', *command, f'{workdir}/model.hq'
    done = _run(data_dir, *words, **settings)
    assert (done.returncode, done.stderr) == (0, '')
    assert f'{workdir}/model' in done.stdout
