"""The shell scripts."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PYTEST = '-m pytest --numprocesses=auto --dist=loadfile'
_LAUNCHERS = ['launch/tpu_pod.sh', 'launch/gpu_slurm.sh']
_SCRIPTS = ['launch/local.sh', 'launch/test.sh', '.ci/run', *_LAUNCHERS]
_PIP = (
  '-m pip install --quiet --no-input --disable-pip-version-check --editable'
)
_MAIN = '-m hq_jax.main --config=configs/digits.py --workdir=runs/digits'

# Stands for an interpreter. It writes down what it is asked to do, makes a
# .venv out of itself, and has Python code run by the real one.
_RECORDER = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then
  exec '{python}' -c 'import platform, sys
version = "{version}"
sys.version_info = tuple(map(int, version.split(".")))
platform.python_version = lambda: version
exec(sys.argv[1])' "$2"
fi
echo "$*" >> '{log}'
echo $$ > '{log}.pid'
if [[ "$*" == '-m venv'* ]]; then
  mkdir -p .venv/bin
  cp "$0" .venv/bin/python
  touch .venv/bin/pip
  chmod +x .venv/bin/pip
fi
if [[ "$*" == "$FAILING" ]]; then exit "$STATUS"; fi
"""


@pytest.fixture
def checkout(tmp_path):
  """What the scripts need of the repository, at a path with a blank."""
  root = tmp_path / 'a copy'
  for folder in ('launch', '.ci'):
    shutil.copytree(_ROOT / folder, root / folder)
  for name in ('setup.cfg', 'pyproject.toml'):
    shutil.copy(_ROOT / name, root)
  return root


def _recorder(tmp_path, version='3.12.1'):
  path = tmp_path / f'python-{version}'
  log = tmp_path / 'log'
  log.touch()
  path.write_text(
    _RECORDER.format(python=sys.executable, version=version, log=log)
  )
  path.chmod(0o755)
  return path, log


def _run(script, *args, cwd='/', **env):
  kept = {name: os.environ[name] for name in ('PATH', 'HOME')}
  return subprocess.run(
    ['bash', str(script), *args],
    cwd=cwd,
    env={**kept, 'FAILING': '', 'STATUS': '0', **env},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize('name', [*_SCRIPTS, 'launch/_venv.sh'])
def test_script_is_a_strict_bash_script(name):
  script = _ROOT / name
  lines = script.read_text().splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  assert 'set -euo pipefail' in lines
  assert os.access(script, os.X_OK) or name not in _SCRIPTS
  done = subprocess.run(['bash', '-n', script], capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
  ('script', 'args', 'expected'),
  [
    (
      'launch/local.sh',
      ['--config.seed=3', 'a b'],
      [
        '-m pip install --editable .\\[train\\,report\\]',
        f'{_MAIN} --config.seed=3 a\\ b',
      ],
    ),
    (
      'launch/test.sh',
      ['-m', 'slow'],
      [
        *('-m pip install --editable .\\[test\\]', '-m ruff check .'),
        *('-m ruff format --check .', '-m mypy', f'{_PYTEST} -m slow'),
      ],
    ),
  ],
)
def test_dry_run_prints_the_commands(checkout, script, args, expected):
  done = _run(script, '--dry_run', *args, cwd=checkout)
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.splitlines() == [
    'python3 -m venv --clear .venv',
    *(f'.venv/bin/python {words}' for words in expected),
  ]
  assert not (checkout / '.venv').exists()


@pytest.mark.parametrize(
  ('words', 'program'),
  [
    ('--config.seed=3', 'main'),
    ('--processes=2 --x', 'launch local --python=.venv/bin/python'),
    ('--x --processes=2', 'launch local --python=.venv/bin/python'),
  ],
)
def test_local_becomes_the_program_that_it_runs(
  checkout, tmp_path, words, program
):
  python, log = _recorder(tmp_path)
  process = subprocess.Popen(
    ['bash', checkout / 'launch/local.sh', *words.split()],
    env={**os.environ, 'PYTHON': str(python), 'FAILING': '', 'STATUS': '0'},
    stderr=subprocess.DEVNULL,
  )
  assert process.wait(timeout=60) == 0
  # A signal to the script reaches the program.
  assert pathlib.Path(f'{log}.pid').read_text() == f'{process.pid}\n'
  assert log.read_text().splitlines()[-1] == (
    f'-m hq_jax.{program} --config=configs/digits.py --workdir=runs/digits'
    f' {words}'
  )


@pytest.mark.parametrize(
  ('script', 'words', 'expected'),
  [
    (
      'local',
      '--processes=1 --config=x',
      'hq_jax.main --config=x --workdir=run',
    ),
    (
      'tpu_pod',
      'delete --name=a --zone=us-west4-a',
      'gcloud compute tpus tpu-vm delete --zone=us-west4-a a --quiet',
    ),
    (
      'gpu_slurm',
      '--nodes=2 --gpus_per_node=8 --config=a --workdir=b',
      "sbatch << 'HQ_JAX_END'",
    ),
  ],
)
def test_launchers_print_their_commands_from_anywhere(script, words, expected):
  script = _ROOT / f'launch/{script}.sh'
  done = _run(script, '--dry_run', *words.split(), PYTHON=sys.executable)
  assert (done.returncode, done.stderr) == (0, '')
  assert expected in done.stdout


def test_environment_names_interpreter_and_workdir(checkout):
  done = _run(
    checkout / 'launch/local.sh', '--dry_run', PYTHON='py3', WORKDIR='/x y'
  )
  lines = done.stdout.splitlines()
  assert lines[0] == 'py3 -m venv --clear .venv'
  assert lines[2].endswith('--workdir=/x\\ y')


@pytest.mark.parametrize('version', ['2.7.18', '3.10.14', None])
@pytest.mark.parametrize('script', ['launch/local.sh', *_LAUNCHERS])
def test_a_python_that_will_not_do_is_one_line(
  checkout, tmp_path, script, version
):
  python, log = _recorder(tmp_path, version or '0.0.0')
  if version is None:
    python.unlink()
    expected = f"no command '{python}', wanted Python 3.11 or later"
  else:
    expected = f"'{python}' is Python {version}, wanted 3.11 or later"
  done = _run(checkout / script, PYTHON=str(python))
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == f'PYTHON: {expected}\n'
  assert log.read_text() == ''


def test_installs_once_and_again_when_the_requirements_change(
  checkout, tmp_path
):
  python, log = _recorder(tmp_path)

  def runs():
    log.write_text('')
    done = _run(checkout / 'launch/local.sh', 'x', PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()

  main, pip = f'{_MAIN} x', f'{_PIP} .[train,report]'
  assert runs() == ['-m venv --clear .venv', pip, main]
  assert runs() == [main]
  with (checkout / 'setup.cfg').open('a') as file:
    file.write('# changed\n')
  assert runs() == [pip, main]
  (checkout / '.venv/bin/pip').unlink()  # As if it was killed half-way.
  assert runs() == ['-m venv .venv', main]


def test_a_failed_installation_is_tried_again(checkout, tmp_path):
  python, log = _recorder(tmp_path)
  pip = f'{_PIP} .[train,report]'
  script = checkout / 'launch/local.sh'
  done = _run(script, PYTHON=str(python), FAILING=pip, STATUS='1')
  assert done.returncode == 1
  assert 'hq_jax.main' not in log.read_text()
  assert _run(script, PYTHON=str(python)).returncode == 0
  assert log.read_text().splitlines().count(pip) == 2


def test_another_python_version_makes_another_environment(checkout, tmp_path):
  script = checkout / 'launch/local.sh'
  old, log = _recorder(tmp_path, '3.11.9')
  new, _ = _recorder(tmp_path, '3.13.0')
  assert _run(script, PYTHON=str(old)).returncode == 0
  log.write_text('')
  assert _run(script).returncode == 0
  assert '-m venv' not in log.read_text()
  assert _run(script, PYTHON=str(new)).returncode == 0
  assert '-m venv --clear .venv' in log.read_text()


@pytest.mark.parametrize(
  ('failing', 'status', 'expected'),
  [
    ('', 0, 0),
    (_PYTEST, 1, 1),
    (_PYTEST, 5, 5),  # No quick test at all is an error.
    (f'{_PYTEST} -m slow', 5, 0),
    (f'{_PYTEST} -m slow', 1, 1),
    ('-m mypy', 2, 2),
  ],
)
def test_ci_fails_when_a_check_fails(
  checkout, tmp_path, failing, status, expected
):
  python, log = _recorder(tmp_path)
  chromium = tmp_path / 'bin' / 'chromium'  # Else it would be installed.
  chromium.parent.mkdir()
  chromium.touch(mode=0o755)
  path = f'{chromium.parent}:{os.environ["PATH"]}'
  env = {'PYTHON': str(python), 'FAILING': failing, 'STATUS': str(status)}
  done = _run(checkout / '.ci/run', PATH=path, **env)
  assert done.returncode == expected, done.stderr
  if expected == 0:
    assert log.read_text().splitlines()[-1] == f'{_PYTEST} -m slow'
