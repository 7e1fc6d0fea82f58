from benchmarks import digits_runs
from tests import markdown


def test_table_has_a_row_for_each_run():
  run = {
    'target_ratio': 30.0,
    'distribution': 'uniform',
    'seed': 1,
    'dense_bytes': 1_200_000,
    'file_bytes': 39_999,
    'ratio': 30.0008,
    'dense_accuracy': 0.992,
    'file_accuracy': 0.9881,
  }
  table = digits_runs.make_table([run, run | {'seed': 2}])
  ((_, first, second),) = markdown.read_tables(table)
  wanted = ['1,200,000', '39,999', '30.00', '99.2%', '98.8%']
  assert first == ['30x', 'uniform', '1', *wanted]
  assert second[2] == '2'
