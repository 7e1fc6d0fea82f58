"""The commands for a slice of Cloud TPU VMs; none of them is run on one."""

import shlex
import subprocess

import pytest

from hq_jax.launch import tpu_vm

ARGUMENTS = ('--config=c.py', '--workdir=/data/a run', "--config.name=it's $a")
GCLOUD = ('gcloud', 'compute', 'tpus', 'tpu-vm')


def _pod(**fields):
  return tpu_vm.Pod(**{'name': 'pod', 'zone': 'us-west4-a', **fields})


def test_the_commands_of_a_pod():
  pod = _pod(project='my-project', spot=True, nfs='10.0.0.2:/share')
  where = ('--zone=us-west4-a', '--project=my-project')
  (create,) = tpu_vm.create(pod)
  assert create.words == (
    *(*GCLOUD, 'create', *where, 'pod', '--accelerator-type=v5litepod-16'),
    *('--version=v2-alpha-tpuv5-lite', '--spot'),
    '--metadata=enable-oslogin=TRUE',
  )
  (delete,) = tpu_vm.delete(pod)
  assert delete.words == (*GCLOUD, 'delete', *where, 'pod', '--quiet')
  pack, send, unpack = tpu_vm.copy(pod, '/a checkout')
  assert pack.words[-3:] == ('-C', '/a checkout', '.')
  assert send.words[4:] == (
    *('scp', *where, pack.words[2], 'pod:hq_jax.tar.gz', '--worker=all'),
  )
  assert unpack.words[4:9] == ('ssh', *where, 'pod', '--worker=all')
  mount, install = tpu_vm.install(pod)
  assert 'sudo mount -t nfs 10.0.0.2:/share /mnt/hq_jax' in mount.words[-1]
  assert "--editable='./hq_jax[train,report,tpu]'" in install.words[-1]


def test_without_a_share_nothing_is_mounted():
  assert len(tpu_vm.install(_pod())) == 1
  assert not any('metadata' in word for word in tpu_vm.create(_pod())[0].words)


def test_what_systemd_replaces_is_escaped():
  (run,) = tpu_vm.run(_pod(), ARGUMENTS, 4, '/c')
  assert run.words[-2] == '--worker=all'
  assert run.words[-1].endswith(
    '"$HOME/hq_jax_venv/bin/python" -m hq_jax.launch auto --max_restarts=4'
    " --restart_seconds=120 --compile_cache=/c --config=c.py '--workdir=/data/a"
    """ run' -- '--config.name=it'"'"'s $$a'"""
  )


def test_a_run_has_its_share_and_ends_before_it_goes():
  pod = _pod(nfs='h:/s', mount="/mnt/it's a")
  mount, run = tpu_vm.run(pod, ARGUMENTS, 3)
  assert mount == tpu_vm.install(pod)[0]
  line = mount.words[-1].removeprefix('--command=')
  # A worker that has it is left alone.
  subprocess.run(['bash', '-c', f'mountpoint() {{ :; }}; {line}'], check=True)
  words = shlex.split(run.words[-1].removeprefix('--command='))
  assert '--property=After=network-online.target remote-fs.target' in words
  (needs,) = (word for word in words if 'RequiresMountsFor' in word)
  listed = needs.removeprefix('--property=RequiresMountsFor=')
  assert shlex.split(listed) == ["/mnt/it's a"]
  (run,) = tpu_vm.run(_pod(), ARGUMENTS, 3)
  assert 'RequiresMountsFor' not in run.words[-1]


@pytest.mark.parametrize(
  'command',
  [
    *tpu_vm.run(_pod(nfs='h:/s'), ARGUMENTS, 3),
    *tpu_vm.install(_pod()),
    tpu_vm.copy(_pod())[-1],
    *tpu_vm.stop(_pod()),
  ],
)
def test_remote_lines_are_good_shell(command):
  line = command.words[-1].removeprefix('--command=')
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
  for given, expected in ((None, version), ('other', 'other')):
    (create,) = tpu_vm.create(_pod(type=type_, version=given))
    assert f'--version={expected}' in create.words


def test_the_archive_holds_what_git_has_and_no_runs(tmp_path):
  root = tmp_path / 'a checkout'
  kept = ['./.git/HEAD', './configs/runs/a.py', './hq_jax/main.py']
  for name in (
    *(*kept, 'runs/a/big', '.venv/bin/python', 'hq_jax/__pycache__/a.pyc'),
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
  assert sorted(files) == kept
