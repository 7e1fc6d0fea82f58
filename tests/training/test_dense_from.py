"""Another compression of the dense network of an earlier run."""

import json
import shutil

import pytest

from hq_jax.training import train
from tests import setups

pytestmark = pytest.mark.usefixtures('quick', 'compiled')


def _get_config(data_dir, **fields):
  network = setups.PERCEPTRON | {'model.widths': (64,)}
  return setups.get_config(
    data_dir, **network | {'target_ratio': 12.0} | fields
  )


@pytest.fixture(scope='module')
def earlier(tmp_path_factory, data_dir):
  """The folder of a whole run, and its report."""
  workdir = tmp_path_factory.mktemp('earlier') / 'workdir'
  return workdir, train.train(_get_config(data_dir), workdir)


def _read_rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_another_ratio_and_longer_compression(
  tmp_path, data_dir, earlier, capsys
):
  source = shutil.copytree(earlier[0], tmp_path / 'earlier')
  fields = {'target_ratio': 20.0, 'ternary.epochs': 2}
  config = _get_config(data_dir, dense_from=str(source), **fields)
  found = train.train(config, tmp_path / 'run')
  assert 20.0 <= found['ratio'] < 22.0
  assert found['dense_accuracy'] == earlier[1]['dense_accuracy']
  rows = _read_rows(tmp_path / 'run')
  phases = [row['phase'] for row in rows]
  num_dense = phases.count('dense')
  assert rows[:num_dense] == _read_rows(source)[:num_dense]
  assert phases.count('ternary') == 2
  printed = capsys.readouterr().out
  assert '\nprune ' in printed
  assert '\ndense   epoch' not in printed
  # It is a run of its own now.
  shutil.rmtree(source)
  (tmp_path / 'run' / 'model.hq').unlink()
  again = train.train(config, tmp_path / 'run')
  assert again['file_accuracy'] == found['file_accuracy']


def test_it_is_as_if_the_dense_network_had_been_trained(
  tmp_path, data_dir, earlier
):
  config = _get_config(data_dir, dense_from=str(earlier[0]))
  train.train(config, tmp_path)
  files = [(path / 'model.hq').read_bytes() for path in (tmp_path, earlier[0])]
  assert files[0] == files[1]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'model.widths': (32,)},
      r'whose dense network is of another config: config\.model\.widths is'
      r' \[64\] there and \[32\] here',
    ),
    ({'seed': 3}, r'config\.seed is 0 there and 3 here'),
    (
      {'dense_from': 'nowhere'},
      r'config\.dense_from is nowhere, whose config\.json cannot be read \(No'
      r' such file or directory\), wanted the workdir of an earlier run',
    ),
  ],
)
def test_what_is_no_start_for_this_run_is_refused(
  tmp_path, data_dir, earlier, fields, message
):
  config = _get_config(data_dir, **{'dense_from': str(earlier[0])} | fields)
  with pytest.raises(ValueError, match=message):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_dense_network_that_is_not_trained_to_the_end_is_refused(
  tmp_path, data_dir, earlier
):
  source = shutil.copytree(earlier[0], tmp_path / 'earlier')
  for step in (source / 'checkpoints' / 'dense').glob('[0-9]*'):
    shutil.rmtree(step)
  config = _get_config(data_dir, dense_from=str(source))
  with pytest.raises(
    ValueError, match=r'has no checkpoint of step .* trained to the end'
  ):
    train.train(config, tmp_path / 'run')
