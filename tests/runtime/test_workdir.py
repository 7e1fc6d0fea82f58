"""The folder of a run: its owner, its lock and its history."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from hq_jax.runtime import workdir

_CONFIG = {
  'seed': 0,
  'checkpoint': {'every_epochs': 5},
  'mesh': {'fsdp': 1},
  'data': {'name': 'digits', 'data_dir': None},
  'model': {'widths': [8, 16]},
}


def _message(call, *args):
  with pytest.raises(ValueError) as caught:
    call(*args)
  return str(caught.value)


def _claim(folder, config=_CONFIG):
  """Claims a folder, and gives it back."""
  workdir.claim(str(folder), config).close()


def test_a_new_folder_is_made_and_belongs_to_the_config(tmp_path):
  folder = tmp_path / 'a' / 'run'
  _claim(folder)
  assert os.listdir(folder) == ['config.json']
  before = (folder / 'config.json').read_bytes()
  assert json.loads(before) == _CONFIG
  # By its own config it is claimed again.
  (folder / 'metrics.jsonl').write_text('{}\n')
  (folder / 'checkpoints').mkdir()
  _claim(folder)
  assert (folder / 'config.json').read_bytes() == before


def test_a_folder_with_other_files_may_be_used(tmp_path):
  (tmp_path / 'notes.txt').write_text('mine')
  _claim(tmp_path)
  assert (tmp_path / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize(
  ('other', 'name', 'theirs', 'ours'),
  [
    ({'seed': 1}, 'seed', '0', '1'),
    ({'model': {'widths': [8]}}, 'model.widths', '[8, 16]', '[8]'),
    ({'data': {'name': 'other'}}, 'data.name', "'digits'", "'other'"),
    ({'target': 30.0}, 'target', 'None', '30.0'),
    ({'model': {}}, 'model.widths', '[8, 16]', 'None'),
  ],
)
def test_another_config_is_refused_by_field(
  tmp_path, other, name, theirs, ours
):
  _claim(tmp_path)
  assert _message(workdir.claim, str(tmp_path), _CONFIG | other) == (
    f'workdir is {tmp_path}, which belongs to another config: config.{name} is'
    f' {theirs} there and {ours} here'
  )
  # A refusal leaves neither a trace nor a lock.
  _claim(tmp_path)


@pytest.mark.parametrize('name', ['checkpoints', 'metrics.jsonl', 'model.hq'])
def test_a_run_without_its_config_is_refused(tmp_path, name):
  (tmp_path / name).write_bytes(b'')
  wanted = (
    f'workdir is {tmp_path}, which holds {name} but no config.json: wanted a'
    ' new folder or that of an earlier run'
  )
  assert _message(workdir.claim, str(tmp_path), _CONFIG) == wanted
  assert os.listdir(tmp_path) == [name]
  # Nor does an empty config make the files ours.
  (tmp_path / 'config.json').write_bytes(b'')
  assert _message(workdir.claim, str(tmp_path), _CONFIG) == wanted


def test_what_is_no_folder_is_refused(tmp_path):
  path = tmp_path / 'file'
  path.write_text('x')
  message = _message(workdir.claim, str(path), _CONFIG)
  assert message == f'workdir is {path}, which is a file'
  assert path.read_text() == 'x'
  for name in ('/runs/a', 'a', '.', 'gs:/bucket'):
    workdir.check_name(name)
  assert _message(workdir.check_name, '') == (
    "workdir is '', wanted a folder: --workdir=DIR"
  )
  for name in ('gs://bucket/run', 's3://a', 'file:///runs'):
    assert _message(workdir.check_name, name) == (
      f'workdir is {name}, wanted a folder of a file system: mount the bucket,'
      ' or better a network file system'
    )


@pytest.mark.parametrize(
  'data', [b'{', b'[]', b'3', b'null', b'\xff\xfe\x00', b'\0\0', b'{"a": }']
)
def test_a_damaged_config_is_refused(tmp_path, data):
  (tmp_path / 'config.json').write_bytes(data)
  message = _message(workdir.claim, str(tmp_path), _CONFIG)
  assert message == f'workdir is {tmp_path}, whose config.json is damaged'
  assert (tmp_path / 'config.json').read_bytes() == data


_HOLD = """
import json, sys
from hq_jax.runtime import workdir
lock = workdir.claim(sys.argv[1], json.loads(sys.argv[2]))
print('claimed', flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path):
  command = [sys.executable, '-c', _HOLD, str(tmp_path), json.dumps(_CONFIG)]
  with subprocess.Popen(
    command,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
  ) as holder:
    assert holder.stdout.readline() == 'claimed\n'
    message = _message(workdir.claim, str(tmp_path), _CONFIG)
    # The other config is no matter while somebody is running.
    other = _message(workdir.claim, str(tmp_path), {'seed': 1})
    holder.kill()
  assert (
    message
    == other
    == (f'workdir is {tmp_path}, in which another process is running')
  )
  _claim(tmp_path)


def test_a_lock_lasts_until_it_is_closed_and_may_be_waited_for(tmp_path):
  lock = workdir.claim(str(tmp_path), _CONFIG)
  assert 'another process' in _message(workdir.claim, str(tmp_path), _CONFIG)
  timer = threading.Timer(0.2, lock.close)
  timer.start()
  workdir.claim(str(tmp_path), _CONFIG, 30.0).close()
  timer.join()
  assert lock.closed


def test_a_config_is_never_there_in_part(tmp_path, monkeypatch):
  _claim(tmp_path / 'whole')
  whole = (tmp_path / 'whole' / 'config.json').read_bytes()
  path = tmp_path / 'cut' / 'config.json'
  seen = []

  def replace(source, target, replace=os.replace):
    """What a process leaves that is killed before or after."""
    seen.extend(file.read_bytes() for file in path.parent.glob('config.json'))
    replace(source, target)
    seen.extend(file.read_bytes() for file in path.parent.glob('config.json'))

  monkeypatch.setattr(os, 'replace', replace)
  _claim(tmp_path / 'cut')
  assert set(seen) == {b'', whole}
  # Of nothing but an empty one, a run begins again.
  path.write_bytes(b'')
  _claim(tmp_path / 'cut')
  assert path.read_bytes() == whole


def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path):
  for attempt in range(10):
    folder = str(tmp_path / str(attempt))
    start, results = threading.Barrier(4), []

    def claim(seed, folder=folder, start=start, results=results):
      start.wait()
      try:
        results.append((seed, workdir.claim(folder, {'seed': seed})))
      except ValueError as error:
        results.append(error)

    threads = [threading.Thread(target=claim, args=[i]) for i in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    ((winner, lock),) = [x for x in results if isinstance(x, tuple)]
    lock.close()
    assert sum('another process' in str(x) for x in results) == 3
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
      assert json.load(file) == {'seed': winner}


_ROWS = [{'step': 10, 'loss': 1 / 3}, {'step': 20, 'loss': 0.25}, {'step': 30}]


def _write_rows(folder, rows=_ROWS):
  history = workdir.History(str(folder))
  for row in rows:
    history.append(row)
  return folder / 'metrics.jsonl'


@pytest.mark.parametrize('cut', [1, 2, 12])
def test_history_leaves_out_a_line_that_was_cut(tmp_path, cut):
  assert workdir.History(str(tmp_path)).rows == []
  path = _write_rows(tmp_path)
  assert workdir.History(str(tmp_path)).rows == _ROWS
  path.write_bytes(path.read_bytes()[:-cut])
  history = workdir.History(str(tmp_path))
  assert history.rows == _ROWS[:2]
  # What is done again takes the place of the half line.
  history.truncate(20)
  history.append({'step': 30, 'again': True})
  found = workdir.History(str(tmp_path)).rows
  assert found == [*_ROWS[:2], {'step': 30, 'again': True}]


@pytest.mark.parametrize(
  'line',
  [b'{"step":', b'7', b'[]', b'null', b'\0\0', b'\xff\xfe', b'{"loss": 1}'],
)
def test_history_leaves_out_a_damaged_line(tmp_path, caplog, line):
  path = _write_rows(tmp_path)
  first, _, third = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(damaged := first + line + b'\n' + third)
  history = workdir.History(str(tmp_path))
  assert history.rows == [_ROWS[0], _ROWS[2]]
  (record,) = caplog.records
  assert record.getMessage() == (
    f'{path}: damaged and left out: line 2; the file as it was is'
    f' {path}.damaged'
  )
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == damaged
  history.append({'step': 40})
  assert [row['step'] for row in workdir.History(str(tmp_path)).rows] == [
    *(10, 30, 40)
  ]
  assert len(caplog.records) == 1


def test_a_digit_that_was_changed_is_noticed(tmp_path):
  path = _write_rows(tmp_path)
  path.write_text(path.read_text().replace('0.25', '0.75'))
  assert workdir.History(str(tmp_path)).rows == [_ROWS[0], _ROWS[2]]


def test_rows_of_an_earlier_version_have_no_digest(tmp_path):
  lines = [json.dumps(row) + '\n' for row in _ROWS]
  (tmp_path / 'metrics.jsonl').write_text(''.join(lines))
  assert workdir.History(str(tmp_path)).rows == _ROWS


@pytest.mark.parametrize(
  ('step', 'kept'), [(0, 0), (9, 0), (10, 1), (29, 2), (30, 3), (99, 3)]
)
def test_truncate_keeps_the_row_of_its_step(tmp_path, step, kept):
  _write_rows(tmp_path)
  history = workdir.History(str(tmp_path))
  history.truncate(step)
  assert history.rows == _ROWS[:kept]
  assert workdir.History(str(tmp_path)).rows == _ROWS[:kept]


def test_rows_of_a_later_stage_stay_while_an_earlier_one_is_done_again(
  tmp_path,
):
  history = workdir.History(str(tmp_path))
  for step in (10, 20, 30, 40):
    history.append({'step': step, 'value': 0})
  history.truncate(10, until=20)
  assert [row['step'] for row in history.rows] == [10, 30, 40]
  history.append({'step': 20, 'value': 1})
  history.append({'step': 50, 'value': 1})
  wanted = [(10, 0), (20, 1), (30, 0), (40, 0), (50, 1)]
  for found in (history, workdir.History(str(tmp_path))):
    assert [(row['step'], row['value']) for row in found.rows] == wanted


def test_all_fields_that_differ_are_found_in_order():
  other = {
    'seed': 2,
    'added': 1,
    'checkpoint': {'every_steps': 3, 'keep': 4, 'keep_best': True},
    'mesh': {'fsdp': 2},
    'max_skipped_steps': 9,
    'data': {'name': 'digits', 'data_dir': '/data'},
    'model': {'widths': [8]},
  }
  wanted = [
    'config.added is None there and 1 here',
    'config.model.widths is [8, 16] there and [8] here',
    'config.seed is 0 there and 2 here',
  ]
  assert workdir.find_differences(_CONFIG, other) == wanted


def test_another_process_joins_without_the_lock(tmp_path):
  with workdir.claim(str(tmp_path), _CONFIG):
    files = sorted(os.listdir(tmp_path))
    with workdir.join(str(tmp_path), _CONFIG):
      assert sorted(os.listdir(tmp_path)) == files
      other = _CONFIG | {'seed': 1}
      assert _message(workdir.join, str(tmp_path), other) == (
        f'workdir is {tmp_path}, which belongs to another config: config.seed'
        ' is 0 there and 1 here'
      )
  with workdir.join(str(tmp_path), _CONFIG):
    _claim(tmp_path)


def test_a_folder_that_is_not_shared_cannot_be_joined(tmp_path):
  folder = tmp_path / 'run'
  wanted = (
    f'workdir is {folder}, which has no config.json here, wanted a folder that'
    ' all processes share'
  )
  assert _message(workdir.join, str(folder), _CONFIG, 0.0) == wanted
  assert not folder.exists()
  folder.mkdir()
  assert _message(workdir.join, str(folder), _CONFIG, 0.0) == wanted
  assert os.listdir(folder) == []
  (folder / 'config.json').write_text('{')
  assert _message(workdir.join, str(folder), _CONFIG) == (
    f'workdir is {folder}, whose config.json is damaged'
  )


def test_a_history_that_is_not_kept_follows_without_writing(tmp_path):
  path = _write_rows(tmp_path)
  before = path.read_bytes()
  history = workdir.History(str(tmp_path), is_kept=False)
  assert history.rows == _ROWS
  history.truncate(10)
  history.append({'step': 15})
  history.append({'step': 12})
  assert [row['step'] for row in history.rows] == [10, 12, 15]
  assert path.read_bytes() == before
  path.unlink()
  history.truncate(0)
  history.append({'step': 99})
  assert not path.exists()
