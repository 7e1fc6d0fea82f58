"""Prepared sets as sources: what is read, from which split, what is damaged."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests import runs
from tests.data import tiny_pictures


def _open(data_dir, config, **splits):
  folder = lookup.find(f'tiny_pictures/{config}', data_dir)
  return prepared.open_prepared(folder, **splits)


def test_files_are_read_as_they_are(pictures_dir):
  found = _open(pictures_dir, 'both')
  tiny_pictures.check(found.train, range(10))
  tiny_pictures.check(found.test, range(14, 18))
  assert found.class_names == tiny_pictures.CLASSES
  assert found.image_shape == (None, None, 3)
  assert (found.train.split, found.test.split) == ('train', 'test')


def test_an_image_without_channels_has_one(pictures_dir):
  found = _open(pictures_dir, 'flat')
  assert found.image_shape == (4, 6, 1)
  values = set()
  for example in found.train:
    assert example['image'].shape == (4, 6, 1)
    (value,) = set(example['image'].ravel().tolist())
    assert example['label'] == value % 3
    values.add(value)
  assert values == set(range(10))


@pytest.mark.parametrize(
  ('config', 'split'),
  [('both', 'test'), ('secret', 'validation'), ('validated', 'validation')],
)
def test_accuracy_is_measured_where_labels_are(pictures_dir, config, split):
  found = _open(pictures_dir, config)
  assert (found.train.split, found.test.split) == ('train', split)
  tiny_pictures.check(
    found.test, range(14, 18) if split == 'test' else range(10, 14)
  )


def test_a_split_may_be_a_part_of_one(pictures_dir):
  found = _open(
    pictures_dir,
    'lone',
    train_split='train[:70%]',
    test_split='train[70%:]',
  )
  assert (len(found.train), len(found.test)) == (7, 3)
  assert (found.train.split, found.test.split) == ('train[:70%]', 'train[70%:]')
  assert found.test[2]['name'] == 'train[70%:][2]'
  both = [example['image'] for source in found[2:4] for example in source]
  assert sorted(both) == sorted(
    tiny_pictures.picture(number) for number in range(10)
  )


@pytest.mark.parametrize(
  ('config', 'splits', 'message'),
  [
    (
      'lone',
      {},
      r'test_split: .*lone.*only train: give config\.data\.train_split='
      r"'train\[:90%\]' and config\.data\.test_split='train\[90%:\]'",
    ),
    ('blind', {}, r"test_split: .* 'test' in .* no labels, .* of train, test$"),
    ('secret', {'test_split': 'test'}, "test_split: .* 'test' in .* no labels"),
    ('secret', {'train_split': 'test'}, 'train_split: .* no labels'),
    ('both', {'train_split': 'all of it'}, r"train_split is 'all of it'.*of"),
    (
      'both',
      {'test_split': 'tset'},
      r"test_split is 'tset', wanted one of "
      r'train, validation, test or',
    ),
    ('both', {'test_split': 'train[:200%]'}, r'test_split is .*100'),
    ('both', {'test_split': 'train[:'}, r'test_split is .*train\[:90%\]'),
    ('both', {'train_split': 'train[8:11]'}, r'train_split is .*10 examples'),
    ('both', {'train_split': 'train[:1%]'}, r'train_split: .* is empty'),
  ],
)
def test_a_wrong_split_is_one_line(pictures_dir, config, splits, message):
  with pytest.raises(ValueError, match=message) as caught:
    _open(pictures_dir, config, **splits)
  assert '\n' not in str(caught.value)


def test_an_example_without_a_label_is_an_error(pictures_dir):
  folder = lookup.find('tiny_pictures/secret', pictures_dir)
  mixed = prepared.open_prepared(folder, train_split='train+test').train
  assert len(mixed) == 14
  with pytest.raises(ValueError, match=r'train\+test\[13\].*label -1.*0\.\.2'):
    [mixed[i] for i in (0, 13)]


def test_an_index_outside_is_an_index_error(pictures_dir):
  source = _open(pictures_dir, 'both').test
  assert [x['name'] for x in source] == [f'test[{i}]' for i in range(4)]
  for index in (-1, 4):
    with pytest.raises(IndexError, match=r'wanted an index in 0\.\.3'):
      source[index]


_READ = """
import pathlib, pickle, sys

def refuse(event, args):
  if event.startswith('socket.') or (
      event == 'import' and args[0].partition('.')[0] == 'tensorflow'):
    raise RuntimeError(f'{event} {args}')

sys.addaudithook(refuse)
from hq_jax.data.sets import datasets
from hq_jax.data.tfds import prepared

assert len(datasets.load('digits', sys.argv[1]).train) == 1297
source = pickle.load(sys.stdin.buffer)
again = prepared.open_prepared(pathlib.Path(source.folder)).train
assert list(again) == list(source)
assert 'tensorflow' not in sys.modules
sys.stdout.buffer.write(pickle.dumps(list(source)))
"""


def test_another_process_needs_neither_tensorflow_nor_a_network(
  pictures_dir, tmp_path
):
  source = _open(pictures_dir, 'both').train
  done = subprocess.run(
    [sys.executable, '-c', _READ, str(tmp_path)],
    cwd=runs.ROOT,
    input=pickle.dumps(source),
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr.decode()
  assert pickle.loads(done.stdout) == list(source)


@pytest.mark.parametrize(
  'name',
  [
    'dataset_info.json',
    'features.json',
    'tiny_pictures-train.array_record-00000-of-00001',
    'tiny_pictures-test.array_record-00000-of-00001',
  ],
)
@pytest.mark.parametrize('damage', ['missing', 'empty', 'cut'])
def test_a_damaged_folder_is_one_line(pictures_copy, name, damage):
  file = pictures_copy / name
  content = file.read_bytes()
  if damage == 'missing':
    file.unlink()
  else:
    file.write_bytes(b'' if damage == 'empty' else content[: len(content) // 2])
  with pytest.raises(ValueError, match=r'^data_dir: .* is damaged') as caught:
    prepared.open_prepared(pictures_copy)
  assert '\n' not in str(caught.value)
  assert str(pictures_copy) in str(caught.value)


@pytest.mark.parametrize(
  ('shard', 'message'),
  [(2, r'record-00002-of-00004 is missing\)'), (3, r'\(train\[9\]: ')],
)
def test_one_bad_file_of_many_is_noticed_at_once(shard, message, tmp_path):
  config = tfds.download.DownloadConfig(num_shards=4)
  tiny_pictures.TinyPictures(
    data_dir=tmp_path, config='both', file_format='array_record'
  ).download_and_prepare(download_config=config)
  folder = lookup.find('tiny_pictures/both', tmp_path)
  tiny_pictures.check(prepared.open_prepared(folder).train, range(10))
  file = folder / f'tiny_pictures-train.array_record-0000{shard}-of-00004'
  if 'missing' in message:
    file.unlink()
  else:
    os.truncate(file, 100)
  with pytest.raises(ValueError, match=f'^data_dir: .*{message}'):
    prepared.open_prepared(folder)


def test_damage_between_is_noticed_when_it_is_read(pictures_copy):
  source = prepared.open_prepared(pictures_copy).train
  file = pictures_copy / 'tiny_pictures-train.array_record-00000-of-00001'
  content = bytearray(file.read_bytes())
  used = np.flatnonzero(np.frombuffer(content, np.uint8))
  content[used[len(used) // 2]] ^= 1
  file.write_bytes(content)
  damaged = prepared.open_prepared(pictures_copy).train
  failed = []
  for i in range(10):
    try:
      assert damaged[i] == source[i]
    except ValueError as error:
      assert str(error).startswith('data_dir: ')
      assert f'{pictures_copy}' in str(error) and f'(train[{i}]: ' in str(error)
      assert '\n' not in str(error)
      failed.append(i)
  assert len(failed) == 1
