"""Folders of images: what is listed, how it is shared out, what is refused."""

import hashlib
import io
import os
import pathlib
import pickle

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import folders
from hq_jax.data import sources
from tests.data import pictures

_SPLITS = ('train/a/1.jpg', 'train/b/1.jpg', 'test/a/1.jpg')


def _touch(root, *names):
  """Writes files that hold their own names."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding='utf-8')
  return root


def _numbered(root, folder, num):
  return _touch(root, *(f'{folder}/{i:03d}.jpg' for i in range(num)))


def _both(root, *classes):
  """A class folder of two images for each name."""
  for name in classes:
    _numbered(root, name, 2)
  return root


def _paths(folder):
  return sorted([*folder.train.paths, *folder.test.paths])


def _link(path, target):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(target)


def _error(root):
  """The one line with which a folder is refused."""
  with pytest.raises(ValueError, match=r'^config\.data\.data_dir: ') as info:
    folders.open_folder(root)
  message = str(info.value)
  assert '\n' not in message
  return message


@pytest.mark.parametrize('test', ['test', 'val', 'validation'])
def test_train_and_test_as_they_lie(tmp_path, test):
  _touch(tmp_path, 'train/b/2.jpg', 'train/b/10.jpg', 'train/a/x.png')
  _touch(tmp_path, 'train/c/x.png', f'{test}/a/y.jpg', f'{test}/b/y.jpg')
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('a', 'b', 'c')
  assert folder.train.paths == (
    'train/a/x.png',
    'train/b/10.jpg',
    'train/b/2.jpg',
    'train/c/x.png',
  )
  assert folder.train.labels.tolist() == [0, 1, 1, 2]
  # No image of c to test on, which moves no label.
  assert folder.test.paths == (f'{test}/a/y.jpg', f'{test}/b/y.jpg')
  assert folder.test.labels.tolist() == [0, 1]
  for source in folder.train, folder.test:
    assert source.labels.dtype == np.int32


def test_labels_to_test_on_are_those_of_train(tmp_path):
  _touch(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'test/b/1.jpg')
  (tmp_path / 'test' / 'a').mkdir()
  assert folders.open_folder(tmp_path).test.labels.tolist() == [1]


def test_an_example_is_the_file_its_label_and_its_name(tmp_path):
  source = folders.open_folder(_touch(tmp_path, *_SPLITS)).train
  assert len(source) == 2
  assert source[1] == {
    'image': b'train/b/1.jpg',
    'label': 1,
    'name': 'train/b/1.jpg',
  }
  assert type(source[np.int64(1)]['label']) is int
  examples = source.__getitems__([1, 0, 1])
  assert [example['label'] for example in examples] == [1, 0, 1]
  with pytest.raises(IndexError):
    source[2]


def test_it_is_a_source_that_workers_can_be_sent(tmp_path):
  source: sources.Source = folders.open_folder(_touch(tmp_path, *_SPLITS)).train
  copy = pickle.loads(pickle.dumps(source))
  assert copy[0] == source[0]
  assert copy.fingerprint() == source.fingerprint()


def test_a_long_list_is_not_printed(tmp_path):
  source = folders.open_folder(_numbered(_both(tmp_path, 'a'), 'b', 99)).train
  assert len(repr(source)) < 100 + len(str(tmp_path))


@pytest.mark.parametrize('prefix', ['', 'train/'])
@pytest.mark.parametrize(
  ('num', 'num_test'), [(1, 0), (2, 1), (9, 1), (10, 2), (14, 2), (25, 5)]
)
def test_a_fifth_of_each_class_is_held_out(tmp_path, prefix, num, num_test):
  _numbered(tmp_path, f'{prefix}a', num)
  _numbered(tmp_path, f'{prefix}b', 5)
  folder = folders.open_folder(tmp_path)
  assert np.bincount(folder.test.labels, minlength=2).tolist() == [num_test, 1]
  assert np.bincount(folder.train.labels).tolist() == [num - num_test, 4]
  # No overlap, and nothing is lost.
  everything = [f'{prefix}a/{i:03d}.jpg' for i in range(num)]
  everything += [f'{prefix}b/{i:03d}.jpg' for i in range(5)]
  assert _paths(folder) == everything
  for source in folder.train, folder.test:
    assert list(source.paths) == sorted(source.paths)


def test_held_out_are_the_lowest_hashes(tmp_path):
  names = [f'a/{i:03d}.jpg' for i in range(15)]
  names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  folder = folders.open_folder(_both(_touch(tmp_path, *names), 'b'))
  assert set(folder.test.paths[:3]) == set(names[:3])


def test_the_same_are_held_out_below_train(tmp_path):
  chosen = []
  for prefix in '', 'train/':
    root = tmp_path / f'root{len(prefix)}'
    _numbered(root, f'{prefix}a', 40)
    _both(root, f'{prefix}b')
    folder = folders.open_folder(root)
    chosen.append([p.removeprefix(prefix) for p in folder.test.paths])
  assert chosen[0] == chosen[1]
  assert len(chosen[0]) == 9


def test_a_new_file_moves_at_most_one_other(tmp_path):
  _both(tmp_path, 'b')
  moved, held_out, known = [], set(), set()
  for number in range(1, 60):
    _touch(tmp_path, f'a/{number}.jpg')
    folder = folders.open_folder(tmp_path)
    now = {path for path in folder.test.paths if path.startswith('a/')}
    moved.append(len((now ^ held_out) & known))
    held_out, known = now, set(_paths(folder))
  assert set(moved) == {0, 1}


def test_names_are_in_the_order_of_their_code_points(tmp_path):
  names = ['10', '2', 'B', 'Zebra', '_x', 'a', 'a-b', 'né', '猫', '🐈']
  folder = folders.open_folder(_both(tmp_path, *names))
  assert list(folder.class_names) == names
  assert [path.split('/')[0] for path in folder.train.paths] == names


def test_the_ends_of_image_files():
  assert set(folders.EXTENSIONS) == {
    '.bmp',
    '.gif',
    '.jpeg',
    '.jpg',
    '.png',
    '.webp',
  }


def test_images_are_found_by_their_ends_however_deep(tmp_path):
  ends = [*folders.EXTENSIONS, '.JPEG', '.Png']
  found = [f'a/x{i}{end}' for i, end in enumerate(ends)]
  found += ['a/deep/er/1.jpg', 'a/with space/ü.jpg']
  skipped = ['a/.hidden.jpg', 'a/._x.jpg', 'a/.git/1.jpg', '.cache/1.jpg']
  skipped += ['a/__MACOSX/1.jpg', '__MACOSX/a/1.jpg', 'a/@eaDir/1.jpg']
  skipped += ['a/Thumbs.db', 'a/x.txt', 'a/x.jpg.part', 'a/jpg', 'notes.md']
  _touch(tmp_path, *found, *skipped)
  folder = folders.open_folder(_both(tmp_path, 'b'))
  assert folder.class_names == ('a', 'b')
  assert _paths(folder) == sorted([*found, 'b/000.jpg', 'b/001.jpg'])


def test_files_are_in_the_order_of_their_paths(tmp_path):
  names = ['a/B.jpg', 'a/c.jpg', 'a/c/1.jpg', 'a/c/b/1.jpg', 'a/d.jpg']
  _touch(
    tmp_path, 'train/b/1.jpg', 'test/b/1.jpg', *(f'train/{n}' for n in names)
  )
  paths = folders.open_folder(tmp_path).train.paths
  assert [path.removeprefix('train/') for path in paths[:-1]] == names


def test_a_folder_that_ends_like_an_image_is_a_folder(tmp_path):
  _both(tmp_path, 'a', 'b.jpg/more.png')
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('a', 'b.jpg')
  assert 'b.jpg/more.png/000.jpg' in _paths(folder)


def test_folders_without_images_beside_train_do_not_matter(tmp_path):
  _touch(tmp_path, *_SPLITS, 'labels/train/a/1.txt', 'readme.txt')
  assert len(_paths(folders.open_folder(tmp_path))) == 3


def test_links_are_followed(tmp_path):
  _numbered(tmp_path / 'store', 'cats', 3)
  _touch(tmp_path / 'store', 'one.jpg')
  root = _both(tmp_path / 'root', 'b')
  _link(root / 'a', tmp_path / 'store' / 'cats')
  _link(root / 'b' / 'linked.jpg', tmp_path / 'store' / 'one.jpg')
  _link(root / 'b' / 'more', tmp_path / 'store' / 'cats')
  _link(tmp_path / 'link', root)
  assert _paths(folders.open_folder(tmp_path / 'link')) == [
    *(f'a/00{i}.jpg' for i in range(3)),
    *(f'b/00{i}.jpg' for i in range(2)),
    'b/linked.jpg',
    *(f'b/more/00{i}.jpg' for i in range(3)),
  ]


@pytest.mark.parametrize('split', ['', 'train'])
@pytest.mark.parametrize('target', ['.', '..', '../..', '../../..', 'sub'])
def test_links_in_circles_add_nothing(tmp_path, split, target):
  root = tmp_path / 'root'
  _both(root / split, 'a', 'b')
  _touch(root / split, 'a/sub/1.jpg')
  before = _paths(folders.open_folder(root))
  _link(root / split / 'a' / 'zz', target)
  _link(root / split / 'a' / 'sub' / 'zz', f'../{target}')
  assert _paths(folders.open_folder(root)) == before


@pytest.mark.parametrize('target', ['..', '../../root'])
def test_a_circle_outside_of_root_adds_nothing(tmp_path, target):
  _both(tmp_path / 'store', 'a', 'b')
  _link(tmp_path / 'store' / 'a' / 'up', target)
  for name in 'ab':
    _link(tmp_path / 'root' / name, tmp_path / 'store' / name)
  assert len(_paths(folders.open_folder(tmp_path / 'root'))) == 4


def test_folders_that_link_to_one_another_are_listed_once(tmp_path):
  # Path by path there would be 12! ways through them.
  _both(tmp_path, 'b')
  for i in range(12):
    _touch(tmp_path, f'a/{i}/x.jpg')
    for j in range(12):
      _link(tmp_path / 'a' / str(i) / f'to{j}', f'../{j}')
  assert len(_paths(folders.open_folder(tmp_path))) == 2 + 12


def test_links_that_lead_nowhere_are_seen_when_read(tmp_path):
  _link(tmp_path / 'train' / 'a' / 'gone.jpg', 'nowhere.jpg')
  _link(tmp_path / 'train' / 'b' / 'circle.jpg', 'circle.jpg')
  source = folders.open_folder(_touch(tmp_path, 'test/a/1.jpg')).train
  assert source.paths == ('train/a/gone.jpg', 'train/b/circle.jpg')
  for index, path in enumerate(source.paths):
    with pytest.raises(OSError, match=path):
      source[index]


def test_what_is_no_file_is_no_image(tmp_path):
  _both(tmp_path, 'a', 'b')
  os.mkfifo(tmp_path / 'a' / 'pipe.jpg')
  _link(tmp_path / 'b' / 'linked.jpg', tmp_path / 'a' / 'pipe.jpg')
  assert len(_paths(folders.open_folder(tmp_path))) == 4


def test_a_file_that_is_gone_is_an_os_error_with_its_path(tmp_path):
  source = folders.open_folder(_touch(tmp_path, *_SPLITS)).train
  path = tmp_path / 'train' / 'b' / '1.jpg'
  path.unlink()
  with pytest.raises(FileNotFoundError, match=str(path)):
    source[1]
  path.mkdir()
  with pytest.raises(IsADirectoryError, match=str(path)):
    source[1]


@pytest.mark.skipif(not os.path.exists('/proc/self/mem'), reason='no such file')
def test_an_error_in_the_middle_of_reading_has_the_path(tmp_path):
  _touch(tmp_path, *_SPLITS)
  _link(tmp_path / 'train' / 'c' / '1.jpg', '/proc/self/mem')
  source = folders.open_folder(tmp_path).train
  with pytest.raises(OSError, match=r'train/c/1\.jpg'):
    source[2]


def test_the_fingerprint_is_of_paths_and_labels(tmp_path):
  first = _touch(tmp_path / 'first', *_SPLITS)
  second = _touch(tmp_path / 'second', *_SPLITS)
  fingerprint = folders.open_folder(first).train.fingerprint()
  # Written down: it must be the same on every machine and in every version.
  assert fingerprint == (
    hashlib.sha256(
      b'\0\0\0\0\1\0\0\0train/a/1.jpg\0train/b/1.jpg\0'
    ).hexdigest()
  )
  (second / 'train/a/1.jpg').write_text('another picture')
  assert folders.open_folder(second).train.fingerprint() == fingerprint
  (second / 'train/a/1.jpg').rename(second / 'train/a/2.jpg')
  assert folders.open_folder(second).train.fingerprint() != fingerprint
  # A class before it changes what the label of an unchanged test image means.
  test = folders.open_folder(first).test.fingerprint()
  _touch(first, 'train/A/1.jpg')
  assert folders.open_folder(first).test.fingerprint() != test


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    (['train/a/1.jpg', 'test/a/1.jpg', 'val/a/1.jpg'], 'has test and val,'),
    (['train/a/1.jpg', 'val/a/1.jpg', 'validation/x'], 'val and validation,'),
    ([*_SPLITS, 'test/c/1.jpg'], "/test/c' is no class of 'train'"),
    ([*_SPLITS, 'test/c/x.txt'], "/test/c' is no class of 'train'"),
    ([*_SPLITS[:2], 'test/a/x.txt'], "/test' has no images"),
    ([*_SPLITS, 'train/1.jpg'], "/train/1.jpg' is an image in no class"),
    ([*_SPLITS, 'test/1.PNG'], "/test/1.PNG' is an image in no class"),
    ([*_SPLITS, '1.jpg'], "/1.jpg' is an image in no class"),
    (['a/1.jpg', 'b/1.jpg', 'x.gif'], "/x.gif' is an image in no class"),
    ([*_SPLITS, 'valid/a/1.jpg'], "/valid' holds images beside 'train'"),
    ([*_SPLITS, 'cats/deep/1.jpg'], "/cats' holds images beside 'train'"),
    (['test/a/1.jpg', 'val/b/1.jpg'], "'test' and none called 'train'"),
    (['Train/a/1.jpg', 'Test/a/1.jpg'], "'Test' and none called 'train'"),
    (['a/1.jpg', 'b/1.jpg', 'c/x.txt'], "/c' is a class without images"),
    ([*_SPLITS, 'train/c/.jpg'], "/train/c' is a class without images"),
    (['flowers/a/1.jpg', 'flowers/b/1.jpg'], "one class, 'flowers'"),
    (['train/a/1.jpg', 'test/a/1.jpg'], "/train' has one class, 'a'"),
    (['a/1.txt', 'b/1.heic'], 'files that end in .bmp .gif .jpeg .jpg'),
    (['readme.txt'], 'has no images'),
    (['a/1.jpg', 'b/1.jpg'], 'has no two images of a class'),
    (['train/a/1.jpg', 'train/b/1.jpg'], 'has no two images of a class'),
  ],
)
def test_another_layout_is_refused(tmp_path, names, wanted):
  message = _error(_touch(tmp_path, *names))
  assert wanted in message
  assert str(tmp_path) in message
  assert ', wanted ' in message


def test_an_empty_class_is_refused(tmp_path):
  (_both(tmp_path, 'a', 'b') / 'c').mkdir()
  assert "/c' is a class without images" in _error(tmp_path)


def test_no_folder_is_refused(tmp_path):
  _touch(tmp_path, 'file')
  for path in tmp_path / 'file', tmp_path / 'missing', f'{tmp_path}/new\nline':
    assert f'{os.fspath(path)!r} is no folder' in _error(path)
  assert "'' is no folder" in _error('')


@pytest.mark.parametrize(
  'name', [b'a/\xff.jpg', b'\xff/1.jpg', b'a/\xff/x.txt']
)
def test_a_name_that_is_not_utf8_is_refused(tmp_path, name):
  path = os.fsencode(_both(tmp_path, 'a', 'b')) + b'/' + name
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb'):
      pass
  except OSError:
    pytest.skip('the file system takes no such names')
  message = _error(tmp_path)
  assert r'\udcff' in message and 'not UTF-8' in message
  message.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may list every folder')
def test_a_folder_that_may_not_be_listed_is_an_os_error(tmp_path):
  _both(tmp_path, 'a', 'b')
  (tmp_path / 'a').chmod(0)
  try:
    with pytest.raises(PermissionError, match=str(tmp_path / 'a')):
      folders.open_folder(tmp_path)
  finally:
    (tmp_path / 'a').chmod(0o700)


def test_home_and_relative_paths(tmp_path, monkeypatch):
  _both(tmp_path / 'pets', 'a', 'b')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  for path in '~/pets', 'pets', pathlib.Path('pets'):
    source = folders.open_folder(path).train
    monkeypatch.chdir('/')
    assert source[0]['image'].startswith(b'a/')
    monkeypatch.chdir(tmp_path)


def test_pictures_are_decodable_and_their_own(tmp_path):
  one = pictures.make_folder(tmp_path / 'one', num_classes=3, num_per_class=5)
  two = pictures.make_folder(tmp_path / 'two', num_classes=2, num_per_class=5)
  other = pictures.make_folder(tmp_path / 'other', num_per_class=1, seed=1)
  folder = folders.open_folder(one)
  assert folder.class_names == ('green_triangle', 'red_disc', 'yellow_square')
  assert len(folder.train) == len(folder.test) == 15
  files = [example['image'] for example in (*folder.train, *folder.test)]
  assert len(set(files)) == 30
  formats = set()
  for file in files:
    with Image.open(io.BytesIO(file)) as image:
      image.load()
      formats.add(image.format)
      assert image.mode == 'RGB'
      assert 48 <= min(image.size) <= max(image.size) <= 72
  assert formats == {'JPEG', 'PNG'}
  name = 'train/red_disc/000.jpg'
  assert (one / name).read_bytes() == (two / name).read_bytes()
  assert (one / name).read_bytes() != (other / name).read_bytes()


def test_pictures_show_their_class(tmp_path):
  root = pictures.make_folder(tmp_path, num_per_class=8, splits=('',))
  means = {}
  for path in sorted(root.glob('*/*')):
    with Image.open(path) as image:
      pixels = np.asarray(image.resize((24, 24)), np.float32)
    colour = np.ptp(pixels, axis=-1) > 90  # The background is nearly grey.
    means.setdefault(path.parent.name, []).append(pixels[colour].mean(0))
  centres = {name: np.mean(values, 0) for name, values in means.items()}
  for name, values in means.items():
    for value in values:
      nearest = min(centres, key=lambda n: np.linalg.norm(value - centres[n]))
      assert nearest == name
