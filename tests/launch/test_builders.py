"""The commands, word by word; none of them is run here."""

import shlex
import subprocess

import pytest

from hq_jax.launch import hosts
from hq_jax.launch import local
from hq_jax.launch import programs
from hq_jax.launch import resuming
from hq_jax.launch import slurm
from hq_jax.launch import tpu_runs
from hq_jax.launch import tpu_vm
from hq_jax.launch import xpk

ARGUMENTS = ('--config=c.py', "--config.name=it's a b", '--workdir=/data/a run')
GCLOUD = ('gcloud', 'compute', 'tpus', 'tpu-vm')


def _pod(**fields):
  return tpu_vm.check(
    tpu_vm.Pod(**{'name': 'pod', 'zone': 'us-west4-a', **fields})
  )


def test_a_process_knows_its_place():
  make = local.make_commands('py', 2, ARGUMENTS, '/cache', 4)
  first, second = make(0)
  port = first[-3].rpartition(':')[2]
  assert first == (
    *('env', 'JAX_PLATFORMS=cpu', 'JAX_NUM_CPU_DEVICES=4'),
    *('JAX_COMPILATION_CACHE_DIR=/cache', 'py', '-m', 'hq_jax.main'),
    *ARGUMENTS,
    f'--coordinator=127.0.0.1:{port}',
    *('--num_processes=2', '--process_id=0'),
  )
  assert second == (*first[:-1], '--process_id=1')


def test_the_remote_shell_gets_the_same_words_back():
  make = hosts.make_commands(
    'p y', ['me@a', 'b.c'], 9000, "/it's here", ARGUMENTS, '/a cache'
  )
  commands = make(2)
  assert [command[-2] for command in commands] == ['me@a', 'b.c']
  assert commands[0][:4] == ('ssh', '-tt', '-o', 'BatchMode=yes')
  remote = commands[1][-1]
  assert shlex.split(remote) == [
    *('cd', "/it's here", '&&', 'exec', 'env'),
    *('JAX_COMPILATION_CACHE_DIR=/a cache', 'p y', '-m', 'hq_jax.main'),
    *ARGUMENTS,
    *('--coordinator=a:9002', '--num_processes=2', '--process_id=1'),
  ]


def test_a_remote_shell_runs_the_line(tmp_path):
  folder = tmp_path / "it's a folder"
  folder.mkdir()
  show = folder / 'show me'
  show.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
  show.chmod(0o755)
  make = hosts.make_commands('./show me', ['a'], 9000, str(folder), ARGUMENTS)
  done = subprocess.run(
    ['sh', '-c', make(0)[0][-1]], capture_output=True, text=True, check=True
  )
  lines = done.stdout.splitlines()
  assert lines[0] == str(folder)
  assert lines[3:6] == list(ARGUMENTS)


def test_a_slurm_script_has_one_process_for_each_gpu():
  script = slurm.make_script(
    *('.venv/bin/python', ARGUMENTS, 2, 8, 5),
    options=[('time', '1-00:00:00'), ('partition', 'gpu')],
    cpus_per_task=6,
    compile_cache='/cache',
  )
  lines = script.splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  directives = [line for line in lines if line.startswith('#SBATCH')]
  # Slurm reads them up to the first command.
  assert lines[1 : 1 + len(directives)] == directives
  assert [line.removeprefix('#SBATCH --') for line in directives] == [
    *('nodes=2', 'ntasks-per-node=8', 'gpus-per-node=8', 'cpus-per-task=6'),
    *('time=1-00:00:00', 'partition=gpu'),
    *('signal=TERM@120', 'open-mode=append', 'requeue'),
  ]
  (srun,) = (line for line in lines if line.startswith('srun'))
  assert shlex.split(srun) == [
    *('srun', '--kill-on-bad-exit=1', '--wait=0', '--gpu-bind=none'),
    *('--cpus-per-task=6', 'bash', '-c', '$process', 'hq_jax'),
    *('env', 'JAX_COMPILATION_CACHE_DIR=/cache'),
    *('.venv/bin/python', '-m', 'hq_jax.main', *ARGUMENTS),
    *('--coordinator=auto', '||', 'status=$?'),
  ]


def test_the_commands_of_a_pod():
  pod = _pod(project='my-project', spot=True, nfs='10.0.0.2:/share')
  where = ('--zone=us-west4-a', '--project=my-project')
  (create,) = tpu_vm.create(pod)
  assert create.words == (
    *(*GCLOUD, 'create', 'pod', *where, '--accelerator-type=v5litepod-16'),
    *('--version=v2-alpha-tpuv5-lite', '--spot'),
    '--metadata=enable-oslogin=TRUE',
  )
  (delete,) = tpu_vm.delete(pod)
  assert delete.words == (*GCLOUD, 'delete', 'pod', *where, '--quiet')
  pack, send, unpack = tpu_vm.copy(pod, '/a checkout')
  assert pack.words[:2] == ('tar', '-czf')
  assert pack.words[-3:] == ('-C', '/a checkout', '.')
  assert send.words[4:] == (
    *('scp', pack.words[2], 'pod:hq_jax.tar.gz', *where, '--worker=all'),
  )
  assert unpack.words[4:8] == ('ssh', 'pod', *where)
  mount, install = tpu_vm.install(pod)
  assert 'sudo mount -t nfs 10.0.0.2:/share /mnt/hq_jax' in mount.words[-1]
  assert install.words[-1].startswith('--command=python3 -m pip install')
  assert "--editable=./hq_jax 'jax[tpu]'" in install.words[-1]


def test_without_a_share_nothing_is_mounted():
  assert len(tpu_vm.install(_pod())) == 1
  assert not any('metadata' in word for word in tpu_vm.create(_pod())[0].words)


def test_what_systemd_replaces_is_escaped():
  (run,) = tpu_runs.run(_pod(), ['--config=c', '--config.a=$HOME b'], 4, '/c')
  assert run.words[-2] == '--worker=all'
  assert run.words[-1].endswith(
    '"$HOME/hq_jax_venv/bin/python" -m hq_jax.launch auto --max_restarts=4'
    ' --restart_seconds=120 --compile_cache=/c -- --config=c'
    " '--config.a=$$HOME b'"
  )


def test_a_run_has_its_share_and_ends_before_it_goes():
  pod = _pod(nfs='h:/s', mount="/mnt/it's a")
  mount, run = tpu_runs.run(pod, ARGUMENTS, 3)
  assert mount == tpu_vm.install(pod)[0]
  line = mount.words[-1].removeprefix('--command=')
  # A worker that has it is left alone.
  subprocess.run(['bash', '-c', f'mountpoint() {{ :; }}; {line}'], check=True)
  words = shlex.split(run.words[-1].removeprefix('--command='))
  assert '--property=After=network-online.target remote-fs.target' in words
  (needs,) = (word for word in words if 'RequiresMountsFor' in word)
  listed = needs.removeprefix('--property=RequiresMountsFor=')
  assert shlex.split(listed) == ["/mnt/it's a"]
  (run,) = tpu_runs.run(_pod(), ARGUMENTS, 3)
  assert 'RequiresMountsFor' not in run.words[-1]


@pytest.mark.parametrize(
  'remote',
  [
    *(command.words[-1] for command in tpu_runs.run(_pod(), ARGUMENTS, 3)),
    *(command.words[-1] for command in tpu_vm.install(_pod(nfs='h:/s'))),
    tpu_runs.run(_pod(nfs='h:/s'), ARGUMENTS, 3)[-1].words[-1],
    tpu_vm.copy(_pod(), '.')[-1].words[-1],
  ],
)
def test_remote_lines_are_good_shell(remote):
  line = remote.removeprefix('--command=')
  subprocess.run(['bash', '-n', '-c', line], check=True, capture_output=True)


@pytest.mark.parametrize(
  ('type_', 'version'),
  [
    ('v4-32', 'tpu-ubuntu2204-base'),
    ('v5p-64', 'v2-alpha-tpuv5'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ],
)
def test_a_type_has_its_runtime(type_, version):
  assert _pod(type=type_).version == version
  assert _pod(type=type_, version='other').version == 'other'


def test_the_archive_holds_what_git_has_and_no_runs(tmp_path):
  root = tmp_path / 'a checkout'
  for name in (
    *('hq_jax/main.py', '.git/HEAD', 'launch/_venv.sh', 'configs/runs/a.py'),
    *('runs/a/big', '.venv/bin/python', 'hq_jax/__pycache__/a.pyc'),
    '.mypy_cache/x',
  ):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
  archive = tmp_path / 'a.tar.gz'
  pack = list(tpu_vm.copy(_pod(), str(root))[0].words)
  pack[2] = str(archive)
  subprocess.run(pack, check=True)
  listed = subprocess.run(
    ['tar', '-tzf', archive], capture_output=True, text=True, check=True
  )
  files = [name for name in listed.stdout.split() if not name.endswith('/')]
  assert sorted(files) == [
    *('./.git/HEAD', './configs/runs/a.py', './hq_jax/main.py'),
    './launch/_venv.sh',
  ]


@pytest.mark.parametrize(
  ('state', 'verbs'),
  [
    ('READY', ['run']),
    ('', ['create', 'tar', 'scp', 'ssh', 'ssh', 'run']),
    ('PREEMPTED', ['delete', 'create', 'tar', 'scp', 'ssh', 'ssh', 'run']),
  ],
)
def test_resuming_makes_what_is_missing(state, verbs):
  run = tpu_runs.run(_pod(), ARGUMENTS, 3)
  listed = resuming.plan(_pod(), state, '.', run)
  found = [
    command.words[0] if len(command.words) < 5 else command.words[4]
    for command in listed[:-1]
  ]
  found = ['tar' if 'exclude' in verb else verb for verb in found]
  assert [*found, 'run'] == verbs
  assert listed[-1] == run[0]


def test_a_workload_brings_the_checkout_or_an_image():
  workload = xpk.check(
    xpk.Workload('c', 'run-1', 'v6e-16', num_slices=2, zone='us-west4-a')
  )
  words = xpk.create(workload, '/a checkout', ARGUMENTS).words
  program = shlex.join(
    ['python3', '-m', 'hq_jax.main', *ARGUMENTS, '--coordinator=auto']
  )
  assert words == (
    *('xpk', 'workload', 'create', '--cluster=c', '--zone=us-west4-a'),
    *('--workload=run-1', '--tpu-type=v6e-16', '--num-slices=2'),
    *('--max-restarts=3', '--restart-on-exit-codes=1'),
    *('--termination-grace-period-seconds=120',),
    *('--base-docker-image=python:3.12', '--script-dir=/a checkout'),
    "--command=python3 -m pip install -q -e . 'jax[tpu]' && exec " + program,
  )
  image = workload._replace(image='gcr.io/p/hq:1')
  words = xpk.create(image, '/a checkout', ARGUMENTS).words
  assert words[-2:] == (
    '--docker-image=gcr.io/p/hq:1',
    f'--command=exec {program}',
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'name': 'My Pod'}, "name is 'My Pod', wanted lower-case letters"),
    ({'name': None}, 'name is missing, wanted lower-case letters'),
    ({'zone': 'us-west4'}, "zone is 'us-west4', wanted one such as us-west4-a"),
    ({'project': 'a b'}, "project is 'a b', wanted a project's id"),
    ({'type': '16'}, "type is '16', wanted one such as v5litepod-16"),
    ({'nfs': '/share'}, "nfs is '/share', wanted HOST:/SHARE"),
    ({'mount': 'mnt'}, "mount is 'mnt', wanted a path that begins with /"),
    ({'python': '3'}, "python_version is '3', wanted one such as 3.12"),
  ],
)
def test_a_field_that_gcloud_would_refuse_is_named(fields, message):
  with pytest.raises(ValueError) as error:
    _pod(**fields)
  assert str(error.value).startswith(message)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'text', ['', 'a,', 'a,,b', 'a,a', '-oProxyCommand=x', 'a b', 'a;b', None]
)
def test_hosts_are_names(text):
  with pytest.raises(ValueError, match=r'^hosts is .*wanted different names'):
    hosts.check_hosts(text)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--workdir=a'], 'config is missing, wanted --config=FILE'),
    (['--config=a'], 'workdir is missing, wanted --workdir=FOLDER'),
    (['--config=a', '--workdir='], 'workdir is missing, wanted'),
    (
      ['--config=a', '--workdir=gs://b/a'],
      "workdir is 'gs://b/a', wanted a fo",
    ),
    (['--config=a', '--workdir', 'gs://b'], "workdir is 'gs://b', wanted"),
    (['--config=a', '--workdir=b', 'c'], "argument 'c' is not known"),
    (['--config', 'a', '--wrkdir', 'b'], "argument '--wrkdir' is not known"),
    (
      ['--config=a', '--workdir=b', '--coordinator=c'],
      "argument '--coordinator=c' is not known",
    ),
  ],
)
def test_arguments_are_checked_before_a_machine_is_paid_for(arguments, message):
  with pytest.raises(ValueError) as error:
    programs.check_arguments(arguments)
  assert str(error.value).startswith(message)


def test_arguments_may_be_two_words_or_unchecked():
  typed = ['--config', 'a', '-workdir', 'b', '--config.x', '3']
  assert programs.check_arguments(typed) == tuple(typed)
  unchecked = [*typed, '--', '--new_flag', '--']
  assert programs.check_arguments(unchecked) == (*typed, '--new_flag', '--')
