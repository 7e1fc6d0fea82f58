"""Two processes with a device each compute what one with two devices does."""

import json
import re

import pytest

from tests import runs

pytestmark = pytest.mark.slow


def _run(words, env):
  with runs.start(words, env) as running:
    done = running.finish()
  assert (done.returncode, done.stderr) == (0, '')
  return done


def _remove_seconds(stdout):
  return [
    re.sub(r'  [\d.]+ (s|min|h)(, .* left)?$', '', line)
    for line in stdout.splitlines()
  ]


@pytest.mark.parametrize('fsdp', [1, 2])
def test_two_processes_are_one_with_two_devices(data_dir, tmp_path, fsdp):
  # The first as a user has it, compiled to be fast.
  if fsdp == 1:
    config, env = (f'--config={runs.DEBUG}',), runs.environment(data_dir)
  else:
    config, env = runs.QUICK, runs.quick_environment(data_dir)
    env.pop('JAX_NUM_CPU_DEVICES')
  words = (*config, f'--config.mesh.fsdp={fsdp}')
  two = _run(runs.launch(*words, f'--workdir={tmp_path / "two"}'), env)
  env['JAX_NUM_CPU_DEVICES'] = '2'
  one = _run(runs.command(*words, f'--workdir={tmp_path / "one"}'), env)
  runs.check_same_end(tmp_path / 'two', tmp_path / 'one')
  # Each has answered for its images.
  reports = [
    json.loads((tmp_path / name / 'report.json').read_text())
    for name in ('one', 'two')
  ]
  for name in ('classes', 'confusions', 'file_accuracy', 'file_loss'):
    assert reports[0][name] == reports[1][name]
  assert sum(row['num_examples'] for row in reports[0]['classes']) == 500
  # Only the first says something; Gloo has its own words, which the processes
  # may write into each other.
  said = [_remove_seconds(run.stdout) for run in (one, two)]
  gloo = re.compile(r'\[Gloo\]|peer ranks')
  said = [[x for x in lines if x and not gloo.search(x)] for lines in said]
  assert said[0] == [x.replace('/two/', '/one/') for x in said[1]]


def test_after_a_restart_the_first_process_compiles_nothing(data_dir, tmp_path):
  # JAX lets it alone write; on CPUs the others look for keys of their own.
  env = {
    name: value
    for name, value in runs.quick_environment(data_dir).items()
    if 'CACHE' not in name
  }
  cache = tmp_path / 'compiled'
  kept = []
  # Another folder: a run in the same one would go on.
  for name in ('first', 'second'):
    words = f'--compile_cache={cache}', *runs.QUICK
    _run(runs.launch(*words, f'--workdir={tmp_path / name}'), env)
    kept.append({path.name for path in cache.glob('*-cache')})
  assert len(kept[0]) > 20
  assert kept[1] == kept[0]
