"""What is built from a checkout, and used where there is none."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import setuptools

import hq_jax
from tests import runs

_SOURCES = (
  *('hq_jax', 'configs', 'setup.py', 'setup.cfg', 'pyproject.toml'),
  *('MANIFEST.in', 'README.md', 'LICENSE'),
)


def _run(*arguments, **options):
  words = [sys.executable, *map(str, arguments)]
  return subprocess.run(words, capture_output=True, text=True, **options)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """A wheel, built from a copy: building leaves folders behind."""
  if int(setuptools.__version__.partition('.')[0]) < 77:
    pytest.skip('setuptools is older than 77: it cannot build the wheel')
  folder = tmp_path_factory.mktemp('wheel')
  for name in _SOURCES:
    if (runs.ROOT / name).is_dir():
      ignore = shutil.ignore_patterns('__pycache__')
      shutil.copytree(runs.ROOT / name, folder / name, ignore=ignore)
    else:
      shutil.copy(runs.ROOT / name, folder)
  options = '--no-deps', '--no-build-isolation', '--no-index', '--quiet'
  done = _run('-m', 'pip', 'wheel', *options, '-w', folder, folder)
  assert done.returncode == 0, done.stderr
  (path,) = folder.glob('*.whl')
  return path


def test_the_wheel_has_all_files_and_a_description_without_links(wheel):
  with zipfile.ZipFile(wheel) as archive:
    found = set(archive.namelist())
    metadata = archive.read(
      f'hq_jax-{hq_jax.__version__}.dist-info/METADATA'
    ).decode()
  wanted = {
    path.relative_to(runs.ROOT).as_posix()
    for path in (runs.ROOT / 'hq_jax').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  configs = {path.name for path in (runs.ROOT / 'configs').glob('*.py')}
  wanted |= {f'hq_jax/configs/{name}' for name in configs}
  assert {x for x in found if x.startswith('hq_jax/')} == wanted
  # A page elsewhere has no files beside it.
  links = re.findall(r'\]\(([^)]*)\)', metadata)
  assert links and all(link.startswith('https://') for link in links)
  assert 'Project-URL: Paper, https://arxiv.org/abs/2212.12653' in metadata


@pytest.mark.slow
def test_an_installed_wheel_trains_with_a_config_by_name(
  wheel, tmp_path, data_dir
):
  installed, empty = tmp_path / 'installed', tmp_path / 'empty'
  options = '--no-deps', '--no-index', '--quiet'
  done = _run('-m', 'pip', 'install', *options, '--target', installed, wheel)
  assert done.returncode == 0, done.stderr
  empty.mkdir()
  program = f"""
from hq_jax import __main__
assert __main__.__file__.startswith({str(installed)!r})
__main__.main()
"""
  environment = runs.quick_environment(data_dir) | {
    'PYTHONPATH': str(installed)
  }
  train = lambda *arguments: _run(
    *('-c', program, 'train', *arguments), cwd=empty, env=environment
  )
  done = train('--config=digits:debug,ratio=10', *runs.SMALL[1:], '--workdir=a')
  assert done.returncode == 0, done.stderr
  assert (empty / 'a' / 'model.hq').exists()
  done = train('--config=configs/digits.py', '--workdir=b')
  assert done.returncode == 2
  assert runs.only_line(done) == (
    "hq_jax: config is 'configs/digits.py', but there is no such file, wanted"
    ' one, or a name: cifar10, digits, fashion_mnist, folder, mobilenet_v2,'
    ' resnet18, resnet50, vit'
  )


@pytest.mark.parametrize('name', ['CHANGELOG.md', 'CITATION.cff'])
def test_the_version_is_the_same_everywhere(name):
  text = (runs.ROOT / name).read_text(encoding='utf-8')
  found = re.search(r'^(?:## |version: )([\d.]+)', text, re.MULTILINE)
  assert found and found[1].rstrip('.') == hq_jax.__version__
