"""How folders of images are shared out, and which layouts are refused."""

import hashlib

import numpy as np
import pytest

from hq_jax.data.sets import folders
from tests.data import file_trees

_SPLITS = ('train/a/1.jpg', 'train/b/1.jpg', 'test/a/1.jpg')


@pytest.mark.parametrize('train', ['train', 'TRAIN', 'Training'])
@pytest.mark.parametrize(
  'test', ['test', 'val', 'validation', 'valid', 'Test', 'Testing']
)
def test_train_and_test_as_they_lie(tmp_path, train, test):
  names = ('b/2.jpg', 'b/10.jpg', 'a/x.png', 'c/x.png')
  file_trees.touch(tmp_path, *(f'{train}/{name}' for name in names))
  file_trees.touch(tmp_path, f'{test}/b/y.jpg', f'{test}/c/y.jpg')
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('a', 'b', 'c')
  assert folder.train.paths == (
    f'{train}/a/x.png',
    f'{train}/b/10.jpg',
    f'{train}/b/2.jpg',
    f'{train}/c/x.png',
  )
  assert folder.train.labels.tolist() == [0, 1, 1, 2]
  # No image of a to test on, which moves no label.
  assert folder.test.paths == (f'{test}/b/y.jpg', f'{test}/c/y.jpg')
  assert folder.test.labels.tolist() == [1, 2]
  for source in folder.train, folder.test:
    assert source.labels.dtype == np.int32


@pytest.mark.parametrize('prefix', ['', 'train/'])
@pytest.mark.parametrize(
  ('num', 'num_test'), [(1, 0), (2, 1), (9, 1), (10, 2), (14, 2), (25, 5)]
)
def test_a_fifth_of_each_class_is_held_out(tmp_path, prefix, num, num_test):
  file_trees.numbered(tmp_path, f'{prefix}a', num)
  file_trees.numbered(tmp_path, f'{prefix}b', 5)
  folder = folders.open_folder(tmp_path)
  assert np.bincount(folder.test.labels, minlength=2).tolist() == [num_test, 1]
  assert np.bincount(folder.train.labels).tolist() == [num - num_test, 4]
  # No overlap, and nothing is lost.
  everything = [f'{prefix}a/{i:03d}.jpg' for i in range(num)]
  everything += [f'{prefix}b/{i:03d}.jpg' for i in range(5)]
  assert file_trees.paths_of(folder) == everything
  for source in folder.train, folder.test:
    assert list(source.paths) == sorted(source.paths)


@pytest.mark.parametrize('prefix', ['', 'train/'])
def test_held_out_are_the_lowest_hashes(tmp_path, prefix):
  # Of the path from the class on: the same in both layouts.
  names = [f'a/{i:03d}.jpg' for i in range(15)]
  names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  file_trees.touch(tmp_path, *(prefix + name for name in names))
  file_trees.both(tmp_path, f'{prefix}b')
  test = folders.open_folder(tmp_path).test
  assert set(test.paths[:3]) == {prefix + name for name in names[:3]}


def test_a_new_file_moves_at_most_one_other(tmp_path):
  file_trees.both(tmp_path, 'b')
  moved, held_out, known = [], set(), set()
  for number in range(1, 60):
    file_trees.touch(tmp_path, f'a/{number}.jpg')
    folder = folders.open_folder(tmp_path)
    now = {path for path in folder.test.paths if path.startswith('a/')}
    moved.append(len((now ^ held_out) & known))
    held_out, known = now, set(file_trees.paths_of(folder))
  assert set(moved) == {0, 1}


def test_names_are_in_the_order_of_their_code_points(tmp_path):
  names = ['10', '2', 'B', 'Zebra', '_x', 'a', 'a-b', 'né', '猫', '🐈']
  folder = folders.open_folder(file_trees.both(tmp_path, *names))
  assert list(folder.class_names) == names
  assert [path.split('/')[0] for path in folder.train.paths] == names


def test_folders_without_images_beside_train_do_not_matter(tmp_path):
  file_trees.touch(tmp_path, *_SPLITS, 'labels/train/a/1.txt', 'readme.txt')
  assert len(file_trees.paths_of(folders.open_folder(tmp_path))) == 3


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    ([*_SPLITS, 'tesT/a/1.jpg'], 'has tesT and test, wanted one of them'),
    (['train/a/1.jpg', 'val/a/1.jpg', 'validation/x'], 'val and validation,'),
    ([*_SPLITS, 'test/c/1.jpg'], "/test/c' is no class of 'train'"),
    ([*_SPLITS, 'test/c/x.txt'], "/test/c' is no class of 'train'"),
    ([*_SPLITS[:2], 'test/a/x.txt'], "/test' has no images"),
    ([*_SPLITS, 'train/1.jpg'], "/train/1.jpg' is an image in no class"),
    ([*_SPLITS, 'test/1.PNG'], "/test/1.PNG' is an image in no class"),
    ([*_SPLITS, '1.jpg'], "/1.jpg' is an image in no class"),
    (['a/1.jpg', 'b/1.jpg', 'x.gif'], "/x.gif' is an image in no class"),
    ([*_SPLITS, 'valid/c/1.jpg'], "/valid/c' is no class of 'train'"),
    ([*_SPLITS, 'valid/a/1.txt'], "/valid' has no images"),
    ([*_SPLITS, 'Train/a/1.jpg'], 'has Train and train, wanted one of them'),
    ([*_SPLITS, 'cats/deep/1.jpg'], "/cats' holds images beside 'train'"),
    (['test/a/1.jpg', 'val/b/1.jpg'], "'test' and none called 'train'"),
    (['Eval/a/1.jpg', 'Val/a/1.jpg'], "'Eval' and none called 'train'"),
    (['a/1.jpg', 'b/1.jpg', 'c/x.txt'], "/c' is a class without images"),
    ([*_SPLITS, 'train/c/.jpg'], "/train/c' is a class without images"),
    (['flowers/a/1.jpg', 'flowers/2.jpg'], "one class, 'flowers'"),
    (['train/a/1.jpg', 'test/a/1.jpg'], "/train' has one class, 'a'"),
    (['a/1.txt', 'b/1.html'], 'has no images, wanted a folder for each class'),
    (['a/1.txt', 'b/1.html'], '(ignored: 1 .html, 1 .txt)'),
    (['a/1.jpg', 'b/1.heic'], "/b' is a class without images"),
    (['a/1.jpg', 'b/1.heic'], '(ignored: 1 .heic; HEIC needs pillow-heif: '),
    (['readme.txt'], 'has no images'),
    (['a/1.jpg', 'b/1.jpg'], 'has no two images of a class'),
    (['train/a/1.jpg', 'train/b/1.jpg'], 'has no two images of a class'),
  ],
)
def test_another_layout_is_refused(tmp_path, names, wanted):
  message = file_trees.error_of(file_trees.touch(tmp_path, *names))
  assert wanted in message
  assert str(tmp_path) in message
  assert ', wanted ' in message


def test_an_empty_class_is_refused(tmp_path):
  (file_trees.both(tmp_path, 'a', 'b') / 'c').mkdir()
  assert "/c' is a class without images" in file_trees.error_of(tmp_path)


@pytest.mark.parametrize('depth', [1, 2, 4])
@pytest.mark.parametrize('prefix', ['', 'train/'])
def test_an_archive_with_a_folder_around_it(tmp_path, depth, prefix):
  inner = '/'.join(['flowers'] * depth)
  names = [f'{prefix}{name}/{i}.jpg' for name in 'ab' for i in range(5)]
  file_trees.touch(tmp_path, *(f'{inner}/{name}' for name in names))
  file_trees.touch(tmp_path, 'readme.txt', '.DS_Store')
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('a', 'b')
  assert file_trees.paths_of(folder) == names
  assert folder.train.root == tmp_path / inner
  plain = file_trees.touch(tmp_path / 'plain', *names)
  assert folders.open_folder(plain).train.paths == folder.train.paths


def test_names_that_look_alike_are_one_class(tmp_path):
  composed, decomposed = 'caf\u00e9', 'cafe\u0301'
  file_trees.touch(
    tmp_path,
    *(f'train/{composed}/1.jpg', 'train/b/1.jpg'),
    *(f'train/{decomposed}/2.jpg', f'test/{decomposed}/3.jpg'),
  )
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('b', composed)
  assert folder.train.labels.tolist() == [0, 1, 1]
  assert folder.test.paths == (f'test/{decomposed}/3.jpg',)
  assert folder.test.labels.tolist() == [1]


@pytest.mark.parametrize('unlabelled', ['Test', 'Test/unknown'])
@pytest.mark.parametrize('others', [(), ('val/b/3.jpg',)])
def test_a_test_without_classes_is_left_out_and_counted(
  tmp_path, unlabelled, others
):
  file_trees.both(tmp_path, 'train/a', 'train/b')
  file_trees.numbered(tmp_path, unlabelled, 3)
  file_trees.touch(tmp_path, *others)
  folder = folders.open_folder(tmp_path)
  assert folder.ignored == {'without a class in Test': 3}
  # Else a fifth of each class is held out.
  assert folder.test.paths == others if others else len(folder.test) == 2


def test_folders_of_systems_are_no_classes(tmp_path):
  file_trees.both(tmp_path, 'a', 'b')
  for name in ('lost+found', '$RECYCLE.BIN', 'System Volume Information'):
    (tmp_path / name).mkdir()
  assert folders.open_folder(tmp_path).class_names == ('a', 'b')


def test_epochs_are_evaluated_on_val_where_there_is_a_test_too(tmp_path):
  file_trees.both(tmp_path, 'Train/a', 'Train/b', 'Valid/b', 'TEST/a')
  folder = folders.open_folder(tmp_path)
  assert folder.validation.paths == ('Valid/b/000.jpg', 'Valid/b/001.jpg')
  assert folder.validation.labels.tolist() == [1, 1]
  assert folder.test.paths == ('TEST/a/000.jpg', 'TEST/a/001.jpg')


@pytest.mark.parametrize(
  ('split', 'paths'),
  [
    (None, ['test/b/000.jpg', 'test/b/001.jpg']),
    ('test', ['test/b/000.jpg', 'test/b/001.jpg']),
    ('validation', ['val/b/000.jpg', 'val/b/001.jpg']),
    ('train', ['train/a/000.jpg', 'train/a/001.jpg']),
    (
      'all',
      [
        *('train/a/000.jpg', 'train/a/001.jpg', 'val/b/000.jpg'),
        *('val/b/001.jpg', 'test/b/000.jpg', 'test/b/001.jpg'),
      ],
    ),
  ],
)
def test_a_network_is_evaluated_on_a_split_or_on_all(tmp_path, split, paths):
  file_trees.both(tmp_path, 'train/a', 'val/b', 'test/b')
  # The network's order of the classes, one of which has no images here.
  folder = folders.open_evaluated(tmp_path, ('b', 'c', 'a'), split)
  assert sorted(folder.test.paths) == sorted(paths)
  labels = dict(zip(folder.test.paths, folder.test.labels, strict=True))
  assert all(label == (2 if '/a/' in x else 0) for x, label in labels.items())


@pytest.mark.parametrize(
  ('folder_of', 'split', 'num'),
  [
    ('', None, 2),  # Held out, as of a folder that is trained on.
    ('', 'all', 10),
    ('test', None, 10),
    ('val', None, 10),
    ('val', 'validation', 10),
    ('train', None, 2),
    ('train', 'train', 8),
  ],
)
def test_a_folder_to_evaluate_on_needs_nothing_else(
  tmp_path, folder_of, split, num
):
  for name in 'ab':
    file_trees.numbered(tmp_path, f'{folder_of}/{name}'.lstrip('/'), 5)
  folder = folders.open_evaluated(tmp_path, ('a', 'b'), split)
  assert len(folder.test) == num
  assert folder.is_held_out == (num == 2)


@pytest.mark.parametrize(
  ('names', 'split', 'message'),
  [
    (['test/x/1.jpg'], None, "/test/x' is no class of the network"),
    (['test/a/1.jpg'], 'val', "test_split is 'val', wanted one of: train, val"),
    (['test/a/1.jpg'], 'train', "test_split is 'train', but "),
    (['a/1.txt'], 'all', 'no such images (ignored: 1 .txt), wanted one of'),
  ],
)
def test_what_a_network_cannot_be_evaluated_on(tmp_path, names, split, message):
  file_trees.touch(tmp_path, *names)
  with pytest.raises(ValueError, match=r'^config\.data\.') as info:
    folders.open_evaluated(tmp_path, ('a', 'b'), split)
  assert message in str(info.value)
