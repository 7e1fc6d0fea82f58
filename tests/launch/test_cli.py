"""The command line."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from hq_jax.launch import cli
from tests import runs

_RUN = '--config=c.py --workdir=/data/a'
_LOCAL = f'local --processes=2 {_RUN}'
_SLURM = f'slurm --nodes=1 --gpus_per_node=1 {_RUN}'
_POD = '--name=pod --zone=us-west4-a'
_LAUNCH = [sys.executable, '-m', 'hq_jax.launch']


def _main(capsys, line):
  status = cli.main(shlex.split(line))
  return (status, *capsys.readouterr())


def _write_program(path, text):
  path.write_text(f'#!/bin/sh\n{text}\n')
  path.chmod(0o755)
  return path


def test_it_needs_no_package_but_python():
  source = (
    'import sys\nfrom hq_jax.launch import cli\n'
    "print(sorted(n for n in sys.modules if 'site-packages' in"
    " (getattr(sys.modules[n], '__file__', None) or '')))\n"
    f'sys.exit(cli.main({[*_SLURM.split(), "--dry_run"]}))'
  )
  # -S: no package that was installed can be found.
  done = subprocess.run(
    [sys.executable, '-S', '-c', source],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.splitlines()[0] == '[]'


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('', 'the following arguments are required: COMMAND'),
    ('locl', "argument COMMAND: invalid choice: 'locl'"),
    ('local', 'processes is missing, wanted the number of processes'),
    ('local --processes', 'argument --processes: expected one argument'),
    ('local --processes=0', "processes is '0', wanted a whole number of 1 to"),
    ('local --processes=two', "processes is 'two', wanted a whole number"),
    ('local --processes=2', 'config is missing, wanted the config file'),
    (f'{_LOCAL} --config=', "config is '', wanted a path"),
    ('local --processes=2 --config=a', 'workdir is missing, wanted a folder'),
    (f'{_LOCAL} --workdir gs://b', "workdir is 'gs://b', wanted a folder that"),
    (f'{_LOCAL} --compile_cache=s3://b', "compile_cache is 's3://b', wanted a"),
    (f'{_LOCAL} --grace_seconds=-1', "grace_seconds is '-1', wanted a whole"),
    (f'{_LOCAL} --dry_run=1', 'argument --dry_run: ignored explicit argument'),
    (f'{_LOCAL} c', "argument 'c' is not known"),
    (f'{_LOCAL} --config.x 3 4', "argument '4' is not known"),
    (f'{_LOCAL} --coordinator=c', "argument '--coordinator=c' is not known"),
    (
      f'local --procesess=2 {_RUN}',
      "argument '--procesess=2' is not known, did you mean --processes?",
    ),
    (
      'local --processes=2 --config a --wrkdir b',
      "argument '--wrkdir' is not known, did you mean --workdir?",
    ),
    (f'{_SLURM} --time=1h', "time is '1h', wanted one such as 1-12:00:00"),
    (f'{_SLURM} --account="a b"', "account is 'a b', wanted a name"),
    (f'{_SLURM} --partition=', "partition is '', wanted a name"),
    ('tpu_pod', 'the following arguments are required: VERB'),
    (f'tpu_pod make {_POD}', "argument VERB: invalid choice: 'make'"),
    ('tpu_pod copy --name=a', 'zone is missing, wanted one such as us-west4-a'),
    (f'tpu_pod copy {_POD} --x', "argument '--x' is not known"),
    (f'tpu_pod copy {_POD} --config.x=1', "argument '--config.x=1' is not kno"),
    (f'tpu_pod run {_POD}', 'config is missing, wanted the config file'),
    ('tpu_pod copy --name=P', "name is 'P', wanted lower-case letters, digits"),
    ('tpu_pod copy --zone=a', "zone is 'a', wanted one such as us-west4-a"),
    ('tpu_pod copy --project=1', "project is '1', wanted a project's id"),
    ('tpu_pod copy --type=16', "type is '16', wanted one such as v5litepod-16"),
    ('tpu_pod copy --nfs=/a', "nfs is '/a', wanted HOST:/SHARE"),
    ('tpu_pod copy --mount=a', "mount is 'a', wanted a path that begins with"),
    (
      'tpu_pod copy --python_version=3',
      "python_version is '3', wanted one suc",
    ),
    (
      f'tpu_pod create {_POD} --type=v9-8',
      "version is missing, wanted a runtime for type 'v9-8'",
    ),
  ],
)
def test_a_wrong_flag_is_one_line(capsys, line, message):
  status, out, err = _main(capsys, line)
  assert (status, out) == (2, '')
  assert err.startswith(f'hq_jax: {message}')
  assert err.count('\n') == 1


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('--help', 'a slice of Cloud TPU VMs'),
    ('slurm --help', 'the number of nodes (required)'),
    ('slurm -h', 'as squeue shows it (default: hq_jax)'),
    ('tpu_pod run --help', 'a path that begins with / (default: /mnt/hq_jax)'),
  ],
)
def test_help_is_that_of_the_command(capsys, line, expected):
  with pytest.raises(SystemExit) as exit_:
    cli.main(line.split())
  assert exit_.value.code == 0
  assert expected in ' '.join(capsys.readouterr().out.split())


def test_arguments_may_be_two_words_or_unchecked(capsys):
  status, out, _ = _main(
    capsys,
    'local --config a --dry_run --workdir b --processes 1 --config.x 3'
    """ "--config.name=it's a" -- --help --""",
  )
  assert status == 0
  assert shlex.split(out)[3:-3] == [
    *('--config=a', '--workdir=b', '--config.x', '3'),
    *("--config.name=it's a", '--help', '--'),
  ]


def test_a_process_knows_its_place(capsys):
  flags = '--dry_run --python="a b" --compile_cache=/c --devices_per_process=4'
  _, out, _ = _main(capsys, f'{_LOCAL} {flags}')
  first, second = map(shlex.split, out.splitlines())
  port = first[-3].rpartition(':')[2]
  assert first == [
    *('env', 'JAX_PLATFORMS=cpu', 'JAX_NUM_CPU_DEVICES=4'),
    *('a b', '-m', 'hq_jax.main', *_RUN.split(), '--compile_cache=/c'),
    f'--coordinator=127.0.0.1:{port}',
    *('--num_processes=2', '--process_id=0'),
  ]
  assert second == [*first[:-1], '--process_id=1']


def test_a_job_that_is_printed_can_be_typed(capsys, tmp_path):
  line = f"{_SLURM} --partition=gpu --cpus_per_task=6 --config.x='$a'"
  status, out, _ = _main(capsys, f'--dry_run {line}')
  assert status == 0
  _write_program(tmp_path / 'sbatch', 'cat > "$NOTE"')
  note = tmp_path / 'note'
  environment = {'PATH': f'{tmp_path}:/usr/bin:/bin', 'NOTE': str(note)}
  subprocess.run(['bash', '-c', out], env=environment, check=True)
  typed = note.read_text()
  subprocess.run(['bash', '-n', note], check=True)
  # And the launcher hands over the same.
  words = [*_LAUNCH, *shlex.split(line)]
  subprocess.run(words, env=environment, cwd=runs.ROOT, check=True)
  assert note.read_text() == typed
  assert {'#SBATCH --partition=gpu', '#SBATCH --cpus-per-task=6'} <= set(
    typed.splitlines()
  )


@pytest.mark.parametrize(
  ('verb', 'count'),
  [
    *(('create', 1), ('copy', 3), ('install', 1), ('logs', 1), ('stop', 1)),
    *(('delete', 1), (f'run {_RUN}', 1), (f'run --nfs=h:/s {_RUN}', 2)),
  ],
)
def test_every_verb_of_a_pod_can_be_printed(capsys, verb, count):
  status, out, _ = _main(capsys, f'tpu_pod --dry_run {verb} {_POD}')
  assert (status, len(out.splitlines())) == (0, count)


def test_what_a_worker_is_given_to_run_it_can_read(capsys):
  flags = f'{_POD} {_RUN} --compile_cache=gs://b/c --config.x=1 --dry_run'
  _, out, _ = _main(capsys, f'tpu_pod run {flags} -- --unchecked')
  remote = shlex.split(out)[-1]
  _, _, line = remote.partition(' -m hq_jax.launch ')
  assert line.startswith('auto ')
  status, out, _ = _main(capsys, f'--dry_run {line}')
  assert status == 0
  assert out.endswith(
    f'hq_jax.main {_RUN} --config.x=1 --unchecked --compile_cache=gs://b/c'
    ' --coordinator=auto\n'
  )


def test_auto_starts_its_process_again(tmp_path, capfd):
  program = _write_program(tmp_path / 'program', 'echo "$@"\nexit 1')
  flags = f'--python={program} --max_restarts=1 --restart_seconds=0'
  assert cli.main(['auto', *flags.split(), *_RUN.split()]) == 1
  line = f'-m hq_jax.main {_RUN} --coordinator=auto'
  assert capfd.readouterr().out.splitlines() == [line] * 2


def test_an_interrupt_ends_it_quietly(tmp_path):
  _write_program(tmp_path / 'gcloud', 'echo begun\nexec sleep 60')
  words = [*_LAUNCH, 'tpu_pod', 'logs', *_POD.split()]
  with runs.start(words, {'PATH': f'{tmp_path}:/usr/bin:/bin'}) as running:
    assert running.process.stdout.readline() == 'begun\n'
    # From the keyboard it reaches both.
    os.killpg(running.process.pid, signal.SIGINT)
    done = running.finish(timeout=20)
  assert (done.returncode, done.stderr) == (130, '')


def test_a_missing_gcloud_is_one_line(tmp_path, capfd, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert cli.main(['tpu_pod', 'delete', *_POD.split()]) == 2
  error = capfd.readouterr().err
  assert error == 'hq_jax: gcloud: No such file or directory\n'
