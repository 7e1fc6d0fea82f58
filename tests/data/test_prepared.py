from concurrent import futures
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from hq_jax.data import datasets
from hq_jax.data import prepared
from hq_jax.data import sources

_ROOT = pathlib.Path(__file__).parents[2]
_CLASSES = ('cat', 'dog', 'emu')
_FILE = tfds.features.Image()
_LABEL = tfds.features.ClassLabel(names=list(_CLASSES))
_ARRAY = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)


def _picture(number: int) -> bytes:
  """A file of its own; every third is a JPEG, and sizes differ."""
  file = io.BytesIO()
  pixels = np.full((5 + number % 3, 6, 3), 7 * number, np.uint8)
  Image.fromarray(pixels).save(file, 'PNG' if number % 3 else 'JPEG')
  return file.getvalue()


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """Ten images to train on; the other splits are those of the config."""

  name = 'tiny_pictures'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.dataset_builder.BuilderConfig(name=name)
    for name in ('secret', 'both', 'validated', 'blind', 'lone', 'flat')
  ]
  SPLITS = {  # noqa: RUF012
    'secret': ('train', 'validation', 'blind'),
    'both': ('train', 'validation', 'test'),
    'validated': ('train', 'validation'),
    'blind': ('train', 'blind'),
    'lone': ('train',),
    'flat': ('train', 'test'),
  }

  def _info(self):
    flat = tfds.features.Tensor(shape=(4, 6), dtype=np.uint8)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'picture': flat if self.builder_config.name == 'flat' else _FILE,
          'mask': tfds.features.Image(shape=(None, None, 1)),
          'kind': _LABEL,
        }
      ),
      supervised_keys=('picture', 'kind'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    firsts = {'train': 0, 'validation': 10, 'test': 14, 'blind': 14}
    return {
      'test' if split == 'blind' else split: self._generate_examples(
        firsts[split], 10 if split == 'train' else 4, split == 'blind'
      )
      for split in self.SPLITS[self.builder_config.name]
    }

  def _generate_examples(self, first, num, is_blind):
    for number in range(first, first + num):
      picture = np.full((4, 6), number, np.uint8)
      yield (
        number,
        {
          'picture': picture
          if self.builder_config.name == 'flat'
          else _picture(number),
          'mask': b'no image at all',
          'kind': -1 if is_blind else number % 3,
        },
      )


@pytest.fixture(scope='module')
def pictures_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('pictures')
  for config in TinyPictures.builder_configs:
    TinyPictures(
      data_dir=data_dir, config=config, file_format='array_record'
    ).download_and_prepare()
  return data_dir


@pytest.fixture
def copy(pictures_dir, tmp_path):
  """The folder of a copy of the pictures, to be broken."""
  folder = tmp_path / 'tiny_pictures' / 'both' / '1.0.0'
  shutil.copytree(pictures_dir / 'tiny_pictures' / 'both' / '1.0.0', folder)
  return folder


def _open(data_dir, config, **splits):
  folder = prepared.find(f'tiny_pictures/{config}', data_dir)
  return prepared.open_prepared(folder, **splits)


def _check(source, numbers):
  """Every picture is there once, byte for byte, with its label and a name."""
  left = {_picture(number): number % 3 for number in numbers}
  for i in range(len(source)):
    example = source[i]
    assert set(example) == {'image', 'label', 'name'}
    assert type(example['image']) is bytes and type(example['label']) is int
    assert example['label'] == left.pop(example['image'])
    assert example['name'] == f'{source.split}[{i}]'
  assert not left


def test_files_are_read_as_they_are(pictures_dir):
  found = _open(pictures_dir, 'both')
  _check(found.train, range(10))
  _check(found.test, range(14, 18))
  assert found.class_names == _CLASSES
  assert found.image_shape == (None, None, 3)
  assert found.splits == ('train', 'test')


def test_arrays_are_read_as_they_are(digits, digits_dir):
  folder = prepared.find('digits', digits_dir)
  assert folder == digits_dir / 'digits' / '1.0.0'
  found = prepared.open_prepared(folder)
  assert found.class_names == tuple('0123456789')
  assert found.image_shape == (8, 8, 1)
  for ours, theirs in ((found.train, digits.train), (found.test, digits.test)):
    assert len(ours) == len(theirs)
    images, labels = sources.gather(ours, range(50))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, theirs.images[:50])
    np.testing.assert_array_equal(labels, theirs.labels[:50])
  assert found.train[3]['name'] == 'train[3]'


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
  assert found.splits == ('train', split)
  _check(found.test, range(14, 18) if split == 'test' else range(10, 14))


def test_a_split_may_be_a_part_of_one(pictures_dir):
  found = _open(
    pictures_dir,
    'lone',
    train_split='train[:70%]',
    test_split='train[70%:]',
  )
  assert (len(found.train), len(found.test)) == (7, 3)
  assert found.splits == ('train[:70%]', 'train[70%:]')
  assert found.test[2]['name'] == 'train[70%:][2]'
  both = [example['image'] for source in found[2:4] for example in source]
  assert sorted(both) == sorted(_picture(number) for number in range(10))


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
    ('both', {'train_split': 'all of it'}, r"train_split: got 'all of it'.*of"),
    (
      'both',
      {'test_split': 'tset'},
      r"test_split: got 'tset', wanted one of "
      r'train, validation, test or',
    ),
    ('both', {'test_split': 'train[:200%]'}, r'test_split: .*100'),
    ('both', {'test_split': 'train[:'}, r'test_split: .*train\[:90%\]'),
    ('both', {'train_split': 'train[8:11]'}, r'train_split: .*10 examples'),
    ('both', {'train_split': 'train[:1%]'}, r'train_split: .* is empty'),
  ],
)
def test_a_wrong_split_is_one_line(pictures_dir, config, splits, message):
  with pytest.raises(ValueError, match=message) as caught:
    _open(pictures_dir, config, **splits)
  assert '\n' not in str(caught.value)


def test_an_example_without_a_label_is_an_error(pictures_dir):
  folder = prepared.find('tiny_pictures/secret', pictures_dir)
  mixed = prepared.open_prepared(folder, train_split='train+test').train
  assert len(mixed) == 14
  with pytest.raises(ValueError, match=r'train\+test\[13\].*label -1.*0\.\.2'):
    mixed.__getitems__([0, 13])


def test_an_index_outside_is_an_index_error(pictures_dir):
  source = _open(pictures_dir, 'both').test
  assert [x['name'] for x in source] == [f'test[{i}]' for i in range(4)]
  for index in (-1, 4):
    with pytest.raises(IndexError, match=r'wanted an index in 0\.\.3'):
      source[index]


def test_many_threads_may_read(pictures_dir):
  source = _open(pictures_dir, 'both').train
  indices = 40 * list(range(10))
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, indices))
  assert found == source.__getitems__(indices)


_READ = """
import pathlib, pickle, sys

def refuse(event, args):
  if event.startswith('socket.') or (
      event == 'import' and args[0].partition('.')[0] == 'tensorflow'):
    raise RuntimeError(f'{event} {args}')

sys.addaudithook(refuse)
from hq_jax.data import prepared

source = pickle.load(sys.stdin.buffer)
again = prepared.open_prepared(pathlib.Path(source.folder)).train
assert again.__getitems__(range(10)) == source.__getitems__(range(10))
assert 'tensorflow' not in sys.modules
sys.stdout.buffer.write(pickle.dumps(source.__getitems__(range(10))))
"""


def test_another_process_reads_without_tensorflow_and_network(pictures_dir):
  source = _open(pictures_dir, 'both').train
  done = subprocess.run(
    [sys.executable, '-c', _READ],
    cwd=_ROOT,
    input=pickle.dumps(source),
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr.decode()
  assert pickle.loads(done.stdout) == source.__getitems__(range(10))


def _make_versions(folder, *names):
  for name in names:
    (folder / name).mkdir(parents=True)
    for file in ('dataset_info.json', 'features.json'):
      (folder / name / file).touch()


def test_the_newest_complete_version_is_found(tmp_path):
  folder = tmp_path / 'tiny'
  _make_versions(folder, '1.9.0', '1.10.0', 'incomplete.ABCDEF_2.0.0', '2.0')
  _make_versions(folder, '3.0.0', '4.0.0')
  (folder / '3.0.0' / 'features.json').unlink()
  (folder / '4.0.0' / 'dataset_info.json').unlink()
  assert prepared.find('tiny', tmp_path) == folder / '1.10.0'
  assert prepared.find('tiny:1.9.0', tmp_path) == folder / '1.9.0'
  for name in ('tiny:3.0.0', 'tiny:1.9.1', 'tiny/a', 'tiny/1.9.0', 'other'):
    assert prepared.find(name, tmp_path) is None
  assert prepared.find('tiny', tmp_path / 'missing') is None


def test_a_config_is_a_folder(pictures_dir, tmp_path):
  folder = pictures_dir / 'tiny_pictures'
  find = lambda name: prepared.find(name, pictures_dir)
  assert find('tiny_pictures/blind') == folder / 'blind' / '1.0.0'
  assert find('tiny_pictures/blind:1.0.0') == folder / 'blind' / '1.0.0'
  assert find('tiny_pictures/blind:1.0.1') is None
  # TFDS's default, which it writes down: the first one.
  assert find('tiny_pictures') == folder / 'secret' / '1.0.0'
  assert find('tiny_pictures:1.0.0') == folder / 'secret' / '1.0.0'


@pytest.mark.parametrize(
  'name',
  [
    *('', 'Cifar', 'a b', '../a', 'a/..', 'a/b/c', 'a:', 'a:1.0', 'a:01.0.0'),
    *('a/', 'hub:a', 'a:1.0.0:2.0.0', 'a/b=1', 'a\n', 'a:1..0'),
  ],
)
def test_a_name_that_is_none(name, tmp_path):
  with pytest.raises(ValueError, match=r'^name: got .*wanted') as caught:
    prepared.find(name, tmp_path)
  assert '\n' not in str(caught.value)


def test_the_command_is_one_for_a_shell(tmp_path):
  assert prepared.prepare_command('a/b') == 'python -m hq_jax.prepare a/b'
  command = prepared.prepare_command('a:1.0.0', tmp_path / "it's")
  line = f'printf "%s|" {command}'
  printed = subprocess.run(['sh', '-c', line], capture_output=True, text=True)
  assert printed.stdout.split('|')[3:] == [
    'a:1.0.0',
    f"--data_dir={tmp_path}/it's",
    '',
  ]


@pytest.mark.parametrize(
  ('features', 'supervised'),
  [
    ({'x': _FILE, 'y': _LABEL}, None),
    ({'x': _ARRAY, 'y': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL, 'a': _FILE, 'b': _LABEL}, ('x', 'y')),
    (
      {'x': _FILE, 'y': _LABEL, 'name': tfds.features.Text()},
      ('x', 'y', 'name'),
    ),
    ({'x': _ARRAY, 'y': _LABEL, 'a': tfds.features.Scalar(np.uint8)}, None),
    (
      {'x': _ARRAY, 'y': _LABEL}
      | {'a': tfds.features.Tensor(shape=(8, 8), dtype=np.float32)},
      None,
    ),
  ],
)
def test_image_and_label_are_found(features, supervised, tmp_path):
  assert prepared.find_keys(_info(features, supervised, tmp_path)) == ('x', 'y')


@pytest.mark.parametrize(
  ('features', 'supervised'),
  [
    ({'x': _FILE}, None),
    ({'x': _FILE, 'y': tfds.features.ClassLabel()}, None),
    ({'y': _LABEL}, None),
    ({'x': _FILE, 'a': _ARRAY, 'y': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL, 'b': _LABEL}, None),
    ({'x': _FILE, 'y': _LABEL}, ('y', 'a')),
    ({'x': _FILE, 'y': tfds.features.Sequence(_LABEL)}, ('x', 'y')),
    ({'x': _FILE, 'y': _LABEL}, ({'x': 'x'}, 'y')),
    ({'x': tfds.features.Image(dtype=np.uint16), 'y': _LABEL}, ('x', 'y')),
    (
      {'x': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.int32), 'y': _LABEL},
      None,
    ),
    ({'x': _FILE, 'y': tfds.features.Scalar(np.int64)}, ('x', 'y')),
  ],
)
def test_other_features_are_named(features, supervised, tmp_path):
  with pytest.raises(ValueError, match=r'^digits: got the features') as caught:
    prepared.find_keys(_info(features, supervised, tmp_path))
  message = str(caught.value)
  assert '\n' not in message
  for key, feature in features.items():
    assert f'{key} ({type(feature).__name__})' in message
  assert ('supervised' in message) == (supervised is not None)


def _info(features, supervised, tmp_path):
  return tfds.core.DatasetInfo(
    builder=datasets.generated.SPECS['digits'].builder(data_dir=tmp_path),
    features=tfds.features.FeaturesDict(features),
    supervised_keys=supervised,
  )


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
def test_a_damaged_folder_is_one_line(copy, name, damage):
  file = copy / name
  content = file.read_bytes()
  if damage == 'missing':
    file.unlink()
  else:
    file.write_bytes(b'' if damage == 'empty' else content[: len(content) // 2])
  with pytest.raises(ValueError, match=r'^data_dir: .* is damaged') as caught:
    prepared.open_prepared(copy)
  assert '\n' not in str(caught.value)
  assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
  ('shard', 'message'),
  [(2, r'record-00002-of-00004 is missing\)'), (3, r'\(train\[9\]: ')],
)
def test_one_bad_file_of_many_is_noticed_at_once(shard, message, tmp_path):
  config = tfds.download.DownloadConfig(num_shards=4)
  TinyPictures(
    data_dir=tmp_path, config='both', file_format='array_record'
  ).download_and_prepare(download_config=config)
  folder = prepared.find('tiny_pictures/both', tmp_path)
  _check(prepared.open_prepared(folder).train, range(10))
  name = f'tiny_pictures-train.array_record-0000{shard}-of-00004'
  if 'missing' in message:
    (folder / name).unlink()
  else:
    os.truncate(folder / name, 100)
  with pytest.raises(ValueError, match=f'^data_dir: .*{message}') as caught:
    prepared.open_prepared(folder)
  assert '\n' not in str(caught.value)


def test_damage_between_is_noticed_when_it_is_read(copy):
  source = prepared.open_prepared(copy).train
  file = copy / 'tiny_pictures-train.array_record-00000-of-00001'
  content = bytearray(file.read_bytes())
  used = np.flatnonzero(np.frombuffer(content, np.uint8))
  content[used[len(used) // 2]] ^= 1
  file.write_bytes(content)
  damaged = prepared.open_prepared(copy).train
  failed = []
  for i in range(10):
    try:
      assert damaged[i] == source[i]
    except ValueError as error:
      assert re.match(rf'data_dir: .*{copy}.* \(train\[{i}\]: ', str(error))
      assert '\n' not in str(error)
      failed.append(i)
  assert len(failed) == 1


def _set_format(folder, **entries):
  file = folder / 'dataset_info.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_another_file_format_is_named_with_what_to_do(copy, tmp_path):
  _set_format(copy, fileFormat='tfrecord')
  with pytest.raises(ValueError, match='format tfrecord, wanted') as caught:
    prepared.open_prepared(copy)
  command = prepared.prepare_command('tiny_pictures/both', tmp_path)
  assert f'delete that folder and run `{command}`' in str(caught.value)
  assert str(copy) in str(caught.value)


def test_the_format_may_be_one_of_several(copy):
  _set_format(
    copy, fileFormat='tfrecord', alternativeFileFormats=['array_record']
  )
  _check(prepared.open_prepared(copy).train, range(10))
