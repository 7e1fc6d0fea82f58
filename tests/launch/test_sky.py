"""The task file for SkyPilot, read by its own parser."""

import json
import pathlib
import subprocess
import sys

import pytest
import yaml

_ROOT = pathlib.Path(__file__).parents[2]
_FILE = _ROOT / 'launch/sky.yaml'
# Of its own environment: it brings 80 packages, and pins some of them.
_REQUIREMENT = 'skypilot >= 0.14, < 0.15'
_PARSE = """
import json, sys, sky, yaml
envs, overrides = json.loads(sys.argv[1])
config = yaml.safe_load(open('launch/sky.yaml'))
task = sky.Task.from_yaml_config(config, list(envs.items()))
task.set_resources_override(overrides)
# As task.validate() does, but for a look at what clouds offer today.
task.validate_name()
task.validate_run()
task.expand_and_validate_workdir()
(found,) = task.resources
restarts = found.job_recovery['max_restarts_on_errors']
listed = found.accelerators, found.use_spot, restarts
print(json.dumps([task.num_nodes, task.envs, *listed]))
"""


@pytest.fixture(scope='module')
def parse(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sky')
  subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
  python = folder / 'bin/python'
  words = [python, '-m', 'pip', 'install', '--quiet', _REQUIREMENT]
  done = subprocess.run(words, capture_output=True, text=True)
  if done.returncode != 0:
    pytest.skip(f'SkyPilot could not be installed: {done.stderr[-300:]}')

  def parse_(envs, **overrides):
    return subprocess.run(
      [python, '-c', _PARSE, json.dumps([envs, overrides])],
      cwd=_ROOT,
      # It keeps files of its own at home.
      env={'HOME': str(folder), 'SKYPILOT_DISABLE_USAGE_COLLECTION': '1'},
      capture_output=True,
      text=True,
    )

  return parse_


@pytest.mark.slow
def test_sky_reads_it_for_hosts_with_gpus_and_for_a_slice(parse):
  given = {'WORKDIR': '/mnt/hq_jax/runs/a'}
  envs = yaml.safe_load(_FILE.read_text())['envs'] | given
  for overrides, accelerators in (
    ({}, {'A100': 8}),
    ({'accelerators': 'tpu-v6e-16'}, {'tpu-v6e-16': 1}),
  ):
    done = parse(given, **overrides)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [2, envs, accelerators, True, 3]
  done = parse({})
  assert done.returncode == 1
  assert "'WORKDIR' is None" in done.stderr


@pytest.mark.parametrize(
  ('devices', 'place'),
  [
    (
      'cuda12',
      ['--coordinator=10.0.0.3:8476', '--num_processes=2', '--process_id=1'],
    ),
    ('tpu', ['--coordinator=auto']),
  ],
)
def test_each_host_knows_its_place(tmp_path, devices, place):
  task = yaml.safe_load(_FILE.read_text())
  python = tmp_path / 'hq_jax_venv/bin/python'
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
  python.chmod(0o755)
  done = subprocess.run(
    ['bash', '-c', task['run']],
    env={
      **task['envs'],
      'DEVICES': devices,
      'WORKDIR': '/a run',
      'ARGUMENTS': '--config.seed=3 --config.x=*',
      'HOME': str(tmp_path),
      'SKYPILOT_NODE_RANK': '1',
      'SKYPILOT_NODE_IPS': '10.0.0.3\n10.0.0.4',
      'SKYPILOT_NUM_NODES': '2',
    },
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (3, '')
  assert done.stdout.splitlines() == [
    *('-m', 'hq_jax.main', '--config=configs/resnet50.py', '--workdir=/a run'),
    *('--config.seed=3', '--config.x=*', *place),
  ]


def test_the_setup_is_good_shell():
  setup = yaml.safe_load(_FILE.read_text())['setup']
  subprocess.run(['bash', '-n', '-c', setup], check=True, capture_output=True)
