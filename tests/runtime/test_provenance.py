"""The commit of a checkout, and the hardware."""

import importlib.util
import pathlib
import shutil
import subprocess

import jax
import pytest

from hq_jax.runtime import provenance

_FOLDER = pathlib.Path(provenance.__file__).parent


def _git(folder, *arguments):
  command = ['git', '-C', str(folder), '-c', 'user.name=a']
  command += ['-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false']
  done = subprocess.run(
    [*command, *arguments], capture_output=True, text=True, check=True
  )
  return done.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A copy of the module's folder, far from any repository."""
  for name in ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  target = tmp_path / 'source' / 'runtime'
  target.mkdir(parents=True)
  for name in ('__init__.py', 'provenance.py'):
    shutil.copy(_FOLDER / name, target)
  return target


def _commit_all(repository):
  _git(repository, 'init', '--quiet')
  _git(repository, 'add', '.')
  _git(repository, 'commit', '--quiet', '-m', 'First.')
  return _git(repository, 'rev-parse', 'HEAD')


def _get_commit(package):
  """What the copy of the module says of itself."""
  path = package / 'provenance.py'
  spec = importlib.util.spec_from_file_location('copied_provenance', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_commit()


def test_a_checkout_has_its_commit(package):
  commit = _commit_all(package.parent)
  assert len(commit) >= 40
  assert _get_commit(package) == commit
  # Files that Git does not know are results and the like.
  (package.parent / 'results.json').write_text('{}')
  assert _get_commit(package) == commit


@pytest.mark.parametrize('name', ['runtime/provenance.py', 'setup.cfg'])
def test_a_changed_checkout_is_dirty(package, name):
  (package.parent / 'setup.cfg').write_text('[metadata]\n')
  commit = _commit_all(package.parent)
  with open(package.parent / name, 'a', encoding='utf-8') as file:
    file.write('\n')
  assert _get_commit(package) == f'{commit}-dirty'
  _git(package.parent, 'add', '.')
  assert _get_commit(package) == f'{commit}-dirty'
  _git(package.parent, 'commit', '--quiet', '-m', 'Second.')
  assert _get_commit(package) == _git(package.parent, 'rev-parse', 'HEAD')


def test_without_a_commit_of_its_own_it_is_unknown(package):
  assert _get_commit(package) == 'unknown'
  # Before the first commit, and in somebody else's checkout.
  (package.parent / '.gitignore').write_text('runtime\n')
  _git(package.parent, 'init', '--quiet')
  assert _get_commit(package) == 'unknown'
  _commit_all(package.parent)
  assert _get_commit(package) == 'unknown'


def test_without_git_it_is_unknown(package, monkeypatch, tmp_path):
  _commit_all(package.parent)
  monkeypatch.setenv('PATH', str(tmp_path))
  assert _get_commit(package) == 'unknown'


def test_hardware_is_plain_text():
  found = provenance.get_hardware()
  assert all(type(x) is str and x for x in found.values())
  assert found['device'] == '8 x cpu'
  assert found['platform'] == 'cpu'
  assert found['jax'] == jax.__version__
  assert int(found['cpu_cores']) >= 1
  assert found.keys() >= {'python', 'machine', 'flax', 'optax', 'numpy'}
