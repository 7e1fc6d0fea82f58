"""The command line."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from hq_jax.launch import __main__ as launch
from hq_jax.launch import tpu_vm

_ROOT = pathlib.Path(__file__).parents[2]
_RUN = ['--config=c.py', '--workdir=/data/a']
_POD = ['--name=pod', '--zone=us-west4-a']


def _main(capsys, *argv):
  status = launch.main(argv)
  return (status, *capsys.readouterr())


def test_it_needs_no_package_but_python():
  source = (
    'import sys\nfrom hq_jax.launch import __main__ as launch\n'
    "print(sorted(n for n in sys.modules if 'site-packages' in"
    " (getattr(sys.modules[n], '__file__', None) or '')))\n"
    "status = launch.main(['slurm', '--dry_run', '--nodes=1',"
    " '--gpus_per_node=1', '--config=a', '--workdir=b'])\n"
    'sys.exit(status)'
  )
  # -S: no package that was installed can be found.
  done = subprocess.run(
    [sys.executable, '-S', '-c', source],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.splitlines()[0] == '[]'


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], 'COMMAND is missing, wanted one of local, hosts, slurm, tpu_pod, xpk'),
    (['locl'], "COMMAND is 'locl', wanted one of local, hosts"),
    (['local'], 'processes is missing, wanted a whole number of 1 to 1000'),
    (['local', '--processes'], 'argument --processes: expected one argument'),
    (
      ['local', '--processes=0', *_RUN],
      "processes is '0', wanted a whole numb",
    ),
    (['local', '--processes=two', *_RUN], "processes is 'two', wanted"),
    (['local', '--processes=2'], 'config is missing, wanted --config=FILE'),
    (
      ['local', '--processes=2', '--devices_per_process=0', *_RUN],
      "devices_per_process is '0', wanted a whole number of 1",
    ),
    (
      ['local', '--processes=2', '--max_restart=1', *_RUN],
      "argument '--max_restart=1' is not known",
    ),
    (
      ['local', '--processes=2', '--max_restarts=-1', *_RUN],
      "max_restarts is '-1', wanted a whole number of 0",
    ),
    (
      ['local', '--processes=2', '--dry_run=1', *_RUN],
      "argument --dry_run: ignored explicit argument '1'",
    ),
    (['hosts', *_RUN], 'hosts is missing, wanted different names'),
    (
      ['hosts', '--hosts=a', '--port=80', *_RUN],
      "port is '80', wanted a whole",
    ),
    (['hosts', '--hosts=a', '--port=65534', *_RUN], "port is '65534', wanted"),
    (['hosts', '--hosts=a', '--folder=', *_RUN], "folder is '', wanted a path"),
    (['slurm', *_RUN], 'nodes is missing, wanted a whole number of 1'),
    (
      ['slurm', '--nodes=1', '--gpus_per_node=1', '--time=1h', *_RUN],
      "time is '1h', wanted one such as 1-12:00:00",
    ),
    (
      ['slurm', '--nodes=1', '--gpus_per_node=1', '--account=a b', *_RUN],
      "account is 'a b', wanted a name",
    ),
    (
      ['slurm', '--nodes=1', '--gpus_per_node=1', '--partition=', *_RUN],
      "partition is '', wanted names",
    ),
    (['tpu_pod', *_POD], 'VERB is missing, wanted one of create, copy'),
    (['tpu_pod', 'make', *_POD], "VERB is 'make', wanted one of create"),
    (
      ['tpu_pod', 'create', '--name=pod'],
      'zone is missing, wanted one such as',
    ),
    (
      ['tpu_pod', 'create', *_POD, *_RUN],
      "argument '--config=c.py' is not known",
    ),
    (['tpu_pod', 'run', *_POD], 'config is missing, wanted --config=FILE'),
    (
      ['tpu_pod', 'run', *_POD, '--config=a', '--workdir=gs://b/c'],
      "workdir is 'gs://b/c', wanted a folder that all hosts share",
    ),
    (['xpk', *_RUN], 'cluster is missing, wanted lower-case letters'),
    (
      ['xpk', '--image=a', '--base_docker_image=b', *_RUN],
      "image is 'a', wanted it or base_docker_image, not both",
    ),
  ],
)
def test_a_wrong_flag_is_one_line(capsys, argv, message):
  status, out, err = _main(capsys, *argv)
  assert (status, out) == (2, '')
  assert err.startswith(f'hq_jax: {message}')
  assert err.count('\n') == 1


def test_help_outweighs_all_else_but_not_what_is_handed_on(capsys):
  assert _main(capsys, 'local', '--processes=0', '--help')[0] == 0
  argv = ['local', '--dry_run', '--processes=1', *_RUN, '--', '--help']
  status, out, _ = _main(capsys, *argv)
  assert status == 0
  assert '--workdir=/data/a --help --coordinator' in out


def test_dry_run_prints_what_could_be_typed(capsys):
  argv = ['hosts', '--dry_run', '--hosts=a,b', '--folder=/hq jax', *_RUN]
  status, out, _ = _main(capsys, *argv)
  assert status == 0
  first, second = map(shlex.split, out.splitlines())
  assert first[0] == second[0] == 'ssh'
  assert second[-1] == (
    "cd '/hq jax' && exec .venv/bin/python -m hq_jax.main --config=c.py"
    ' --workdir=/data/a --coordinator=a:8476 --num_processes=2 --process_id=1'
  )


def test_a_job_that_is_printed_can_be_typed(capsys, tmp_path):
  argv = ['slurm', '--nodes=2', '--gpus_per_node=8', '--partition=gpu', *_RUN]
  status, out, _ = _main(capsys, *argv, '--dry_run')
  assert status == 0
  sbatch = tmp_path / 'sbatch'
  sbatch.write_text('#!/bin/sh\ncat > "$NOTE"\n')
  sbatch.chmod(0o755)
  path = f'{tmp_path}:/usr/bin:/bin'
  note = tmp_path / 'note'
  environment = {'PATH': path, 'NOTE': str(note)}
  subprocess.run(['bash', '-c', out], env=environment, check=True)
  typed = note.read_text()
  subprocess.run(['bash', '-n', note], check=True)
  # And the launcher hands over the same.
  note.unlink()
  subprocess.run(
    [sys.executable, '-m', 'hq_jax.launch', *argv],
    env=environment,
    cwd=_ROOT,
    check=True,
  )
  assert note.read_text() == typed
  assert '#SBATCH --partition=gpu' in typed.splitlines()


def test_every_verb_of_a_pod_can_be_printed(capsys):
  counts = {'create': 1, 'copy': 3, 'install': 1, 'logs': 1, 'stop': 1}
  for verb, count in {**counts, 'delete': 1}.items():
    status, out, _ = _main(capsys, 'tpu_pod', verb, '--dry_run', *_POD)
    assert (status, len(out.splitlines())) == (0, count), verb
  _, run, _ = _main(capsys, 'tpu_pod', 'run', *_POD, *_RUN, '--dry_run')
  _, resume, _ = _main(capsys, 'tpu_pod', 'resume', *_POD, *_RUN, '--dry_run')
  assert len(run.splitlines()) == 1
  verbs = [line.split()[4] for line in resume.splitlines()]
  pod = tpu_vm.check(tpu_vm.Pod('pod', 'us-west4-a'))
  pack = shlex.join(tpu_vm.copy(pod, str(pathlib.Path.cwd()))[0].words)
  assert resume.splitlines()[3] == pack
  del verbs[3]
  assert verbs == ['list', 'delete', 'create', 'scp', 'ssh', 'ssh', 'ssh']
  assert resume.splitlines()[-1] == run.splitlines()[0]


def test_a_workload_can_be_printed(capsys):
  argv = ['--cluster=c', '--workload=w', '--tpu_type=v6e-16', '--num_slices=2']
  status, out, _ = _main(capsys, 'xpk', *argv, *_RUN, '--dry_run')
  assert status == 0
  assert '--num-slices=2' in shlex.split(out)


@pytest.mark.parametrize('status', [0, 2])
def test_the_status_is_that_of_the_run(status, tmp_path):
  program = tmp_path / 'program'
  program.write_text(
    f'#!/bin/sh\necho "$@" >> {tmp_path}/note\nexit {status}\n'
  )
  program.chmod(0o755)
  argv = ['local', '--processes=2', f'--python={program}', *_RUN]
  assert launch.main(argv) == status
  notes = (tmp_path / 'note').read_text().splitlines()
  assert {note.split()[-1] for note in notes} <= {
    '--process_id=0',
    '--process_id=1',
  }


def test_auto_starts_its_process_again(tmp_path, capfd):
  program = tmp_path / 'program'
  program.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
  program.chmod(0o755)
  argv = ['auto', f'--python={program}', '--max_restarts=1', *_RUN]
  assert launch.main([*argv, '--restart_seconds=0']) == 1
  line = '-m hq_jax.main --config=c.py --workdir=/data/a --coordinator=auto'
  assert capfd.readouterr().out.splitlines() == [line] * 2
