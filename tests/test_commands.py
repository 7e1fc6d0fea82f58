"""The commands: what they take, refuse and import."""

import os
import subprocess
import sys

import pytest

from hq_jax import __main__ as commands
from tests import runs

_GOLDEN = str(runs.ROOT / 'tests' / 'artifact' / 'golden.hq')
_HEAVY = {'jax', 'jaxlib', 'flax', 'absl', 'optax'}


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    ([], 'required: COMMAND; hq-jax --help tells more'),
    (['inspct'], "invalid choice: 'inspct' (choose from"),
    (['inspect'], 'required: FILE; hq-jax inspect --help tells more'),
    (['inspect', 'a.hq', 'b.hq'], 'unrecognized arguments: b.hq'),
    (['inspect', '--js', 'a.hq'], 'unrecognized arguments: --js'),
    (['inspect', '--json=3', 'a.hq'], '--json'),
    (['predict', 'a.hq'], 'required: IMAGE'),
    (['prepare'], 'required: NAME'),
    (['prepare', 'a', '--data=b'], 'unrecognized arguments: --data=b'),
    (['prepare', '--data_dir'], '--data_dir'),
    (['launch', 'nowhere'], "invalid choice: 'nowhere'"),
  ],
)
def test_wrong_arguments_are_one_line(arguments, word, capsys):
  assert commands.main(arguments) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith('hq_jax: ') and word in err and err.count('\n') == 1


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--help'], ['train', 'inspect', 'predict', 'prepare', 'launch']),
    (
      ['inspect', '-h'],
      ['--json', 'FILE', 'ratio', 'entropy', 'status', 'verified'],
    ),
    (
      ['predict', '--help'],
      ['MODEL', 'IMAGE', '--top', '--json', '--engine', 'Exit status'],
    ),
    (
      ['prepare', '--help'],
      ['NAME', '--data_dir', '--manual_dir', 'cifar10', 'Exit status'],
    ),
  ],
)
def test_help_explains(arguments, words, capsys):
  with pytest.raises(SystemExit) as end:
    commands.main(arguments)
  assert end.value.code == 0
  out, err = capsys.readouterr()
  assert err == ''
  for word in words:
    assert word in out


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_is_one_line(monkeypatch, capsys):
  with open('/dev/full', 'w', encoding='utf-8') as full:
    monkeypatch.setattr(sys, 'stdout', full)
    assert commands.main(['inspect', _GOLDEN]) == 1
  err = capsys.readouterr().err
  assert err == 'hq_jax: standard output: No space left on device\n'


def _run(*arguments, **options):
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} | options
  return subprocess.run(
    [sys.executable, *arguments], cwd=runs.ROOT, text=True, **options
  )


def test_a_closed_pipe_is_no_error():
  reading, writing = os.pipe()
  os.close(reading)
  with os.fdopen(writing, 'wb') as closed:
    done = _run('-m', 'hq_jax', 'inspect', _GOLDEN, stdout=closed)
  assert (done.returncode, done.stderr) == (0, '')


def test_train_is_the_program():
  done = _run('-m', 'hq_jax', 'train', '--config=configs/digits.py:rato=3')
  assert (done.returncode, done.stdout) == (2, '')
  assert 'rato is not known' in runs.only_line(done)
  assert runs.only_line(done).endswith('; did you mean ratio?')


def test_help_on_training_and_on_a_config():
  done = _run('-m', 'hq_jax.main', '--help')
  assert (done.returncode, done.stderr) == (0, '')
  for word in ('--config', '--workdir', '--evaluate', '--coordinator'):
    assert f'\n{word}: ' in done.stdout
  config = '--config', 'digits:ratio=40'  # by its name
  done = _run('-m', 'hq_jax.main', *config, '--help', '--config.seed=7')
  assert (done.returncode, done.stderr) == (0, '')
  assert '--config.target_ratio=40.0  (default 30.0; a num' in done.stdout
  assert '--config.seed=7  (default 0; an int' in done.stdout


@pytest.mark.parametrize(
  ('arguments', 'unwanted'),
  [
    (['inspect', _GOLDEN], _HEAVY),
    (['prepare', 'imagenet2012', '--data_dir=/no/where'], _HEAVY - {'absl'}),
    (['launch', 'nowhere'], {*_HEAVY, 'numpy'}),
  ],
)
def test_a_command_imports_what_it_needs(arguments, unwanted):
  source = f"""
import sys
from hq_jax import __main__ as commands
commands.main({arguments!r})
print(sorted({unwanted!r} & set(sys.modules)))
"""
  done = _run('-c', source)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == '[]'


@pytest.mark.parametrize(
  ('package', 'arguments', 'what'),
  [
    ('ml_collections', ['train'], 'training'),
    (
      'flax',
      ['train', '--config=configs/digits.py', '--workdir=/no'],
      'training',
    ),
    ('tensorflow_datasets', ['prepare', 'cifar10'], 'hq-jax prepare'),
  ],
)
def test_a_missing_package_is_named_with_its_extra(package, arguments, what):
  # `None` is what a package that is not there looks like.
  source = f"""
import sys
sys.modules[{package!r}] = None
from hq_jax import __main__ as commands
sys.exit(commands.main({arguments!r}))
"""
  done = _run('-c', source)
  assert (done.returncode, done.stdout) == (2, '')
  assert runs.only_line(done) == (
    f'hq_jax: {what} needs {package}, which is not installed: pip install'
    " 'hq_jax[train]'"
  )
