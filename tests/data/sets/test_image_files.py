"""Which files below a folder are listed as images, and in what order."""

import os

from PIL import Image
import pytest

from hq_jax.data.images import formats
from hq_jax.data.sets import folders
from hq_jax.data.sets import image_files
from tests.data import encoded
from tests.data import file_trees


def test_images_are_found_by_their_ends_however_deep(tmp_path):
  ends = ['.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp', '.JPEG', '.Png']
  ends += ['.avif', '.jfif', '.pgm', '.ppm', '.tif', '.TIFF']
  found = [f'a/x{i}{end}' for i, end in enumerate(ends)]
  found += ['a/deep/er/1.jpg', 'a/with space/ü.jpg']
  skipped = ['a/.hidden.jpg', 'a/._x.jpg', 'a/.git/1.jpg', '.cache/1.jpg']
  skipped += ['a/__MACOSX/1.jpg', '__MACOSX/a/1.jpg', 'a/@eaDir/1.jpg']
  skipped += ['a/Thumbs.db', 'a/x.txt', 'a/x.jpg.part', 'a/jpg', 'notes.md']
  file_trees.touch(tmp_path, *found, *skipped)
  folder = folders.open_folder(file_trees.both(tmp_path, 'b'))
  assert folder.class_names == ('a', 'b')
  assert file_trees.paths_of(folder) == sorted(
    [*found, 'b/000.jpg', 'b/001.jpg']
  )
  # What the folders of classes hold besides, but for what is hidden.
  assert folder.ignored == {'.db': 1, '.txt': 1, '.part': 1, '': 1}


def _image(file_format, **options):
  return encoded.encode(Image.new('RGB', (8, 8)), file_format, **options)


def _heic(brand=b'heic'):
  return b'\0\0\0\x18ftyp' + brand + b'\0\0\0\0mif1heic' + bytes(200)


def test_images_are_found_by_what_is_in_them(tmp_path):
  found = {f'a/{name}': _image(name) for name in (*encoded.LOSSLESS, 'AVIF')}
  found |= {
    'a/x.jpg.1': _image('JPEG'),
    'a/y.JPG_large': _image('JPEG'),
    'a/z.txt': _image('PNG'),
    'a/a photo.heic': _image('JPEG'),
    'b/1.png': b'',
    'b/2.png': b'',
  }
  # Texts and others that begin as images do, and raw photographs.
  others = {
    'a/P5.txt': b'P5 and P6 are formats\n',
    'a/bmw.txt': b'BMW, and other cars' * 9,
    'a/python.md': b'Python',
    'a/numbers.bin': b'\x0a\x05\1\x08' + bytes(9),
    'a/x.npy': b'\x93NUMPY',
    'a/film.mov': b'\0\0\0\x14ftypqt  \0\0\0\0qt  ',
    'a/empty': b'',
    'a/raw.DNG': _image('TIFF'),
  }
  for name, data in {**found, **others}.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
  folder = folders.open_folder(tmp_path)
  assert file_trees.paths_of(folder) == sorted(found)
  wanted = {'.bin': 1, '.dng': 1, '.md': 1, '.mov': 1, '.npy': 1, '.txt': 2}
  assert folder.ignored == wanted | {'': 1}


@pytest.mark.skipif(formats.has_heif(), reason='HEIC is read')
def test_heic_is_counted_by_name_or_by_what_is_in_it(tmp_path):
  file_trees.both(tmp_path, 'a', 'b')
  for name in ('a/1.HEIC', 'a/2.heic', 'a/3.hif', 'a/4', 'a/5.dat'):
    (tmp_path / name).write_bytes(_heic())
  (tmp_path / 'b' / '6').write_bytes(_heic(b'mif1'))
  folder = folders.open_folder(tmp_path)
  assert len(file_trees.paths_of(folder)) == 4
  assert folder.ignored == {'.heic': 2, '.hif': 1, 'HEIC': 3}
  assert image_files.describe_ignored(folder.ignored) == (
    '3 HEIC, 2 .heic, 1 .hif; HEIC needs pillow-heif: pip install pillow-heif'
  )
  # In no class, it is refused as other images are.
  (tmp_path / '7.heic').write_bytes(_heic())
  message = file_trees.error_of(tmp_path)
  assert "/7.heic' is an image in no class" in message


def test_heic_is_an_image_where_it_can_be_read(tmp_path):
  pytest.importorskip('pillow_heif')
  file_trees.both(tmp_path, 'a', 'b')
  for name in ('a/1.HEIC', 'a/4', 'b/5.dat'):
    (tmp_path / name).write_bytes(_heic())
  folder = folders.open_folder(tmp_path)
  assert len(file_trees.paths_of(folder)) == 7 and not folder.ignored


def test_the_most_frequent_kinds_are_named():
  ignored = {f'.{i}': 9 - i for i in range(7)} | {'.' + 'x' * 99: 1}
  assert image_files.describe_ignored(ignored) == (
    '9 .0, 8 .1, 7 .2, 6 .3, 5 .4, 8 others'
  )
  assert len(image_files.describe_ignored({'.' + 'x' * 99: 1})) < 30


def test_files_are_in_the_order_of_their_paths(tmp_path):
  names = ['a/B.jpg', 'a/c.jpg', 'a/c/1.jpg', 'a/c/b/1.jpg', 'a/d.jpg']
  file_trees.touch(
    tmp_path, 'train/b/1.jpg', 'test/b/1.jpg', *(f'train/{n}' for n in names)
  )
  paths = folders.open_folder(tmp_path).train.paths
  assert [path.removeprefix('train/') for path in paths[:-1]] == names


def test_a_folder_that_ends_like_an_image_is_a_folder(tmp_path):
  file_trees.both(tmp_path, 'a', 'b.jpg/more.png')
  folder = folders.open_folder(tmp_path)
  assert folder.class_names == ('a', 'b.jpg')
  assert 'b.jpg/more.png/000.jpg' in file_trees.paths_of(folder)


def test_links_are_followed(tmp_path):
  file_trees.numbered(tmp_path / 'store', 'cats', 3)
  file_trees.touch(tmp_path / 'store', 'one.jpg')
  root = file_trees.both(tmp_path / 'root', 'b')
  file_trees.link(root / 'a', tmp_path / 'store' / 'cats')
  file_trees.link(root / 'b' / 'linked.jpg', tmp_path / 'store' / 'one.jpg')
  file_trees.link(root / 'b' / 'more', tmp_path / 'store' / 'cats')
  file_trees.link(tmp_path / 'link', root)
  assert file_trees.paths_of(folders.open_folder(tmp_path / 'link')) == [
    *(f'a/00{i}.jpg' for i in range(3)),
    *(f'b/00{i}.jpg' for i in range(2)),
    'b/linked.jpg',
    *(f'b/more/00{i}.jpg' for i in range(3)),
  ]


@pytest.mark.parametrize('split', ['', 'train'])
@pytest.mark.parametrize('target', ['.', '..', '../..', '../../..', 'sub'])
def test_links_in_circles_add_nothing(tmp_path, split, target):
  root = tmp_path / 'root'
  file_trees.both(root / split, 'a', 'b')
  file_trees.touch(root / split, 'a/sub/1.jpg')
  before = file_trees.paths_of(folders.open_folder(root))
  file_trees.link(root / split / 'a' / 'zz', target)
  file_trees.link(root / split / 'a' / 'sub' / 'zz', f'../{target}')
  assert file_trees.paths_of(folders.open_folder(root)) == before


@pytest.mark.parametrize('target', ['..', '../../root'])
def test_a_circle_outside_of_root_adds_nothing(tmp_path, target):
  file_trees.both(tmp_path / 'store', 'a', 'b')
  file_trees.link(tmp_path / 'store' / 'a' / 'up', target)
  for name in 'ab':
    file_trees.link(tmp_path / 'root' / name, tmp_path / 'store' / name)
  assert len(file_trees.paths_of(folders.open_folder(tmp_path / 'root'))) == 4


def test_folders_that_link_to_one_another_are_listed_once(tmp_path):
  # Path by path there would be 12! ways through them.
  file_trees.both(tmp_path, 'b')
  for i in range(12):
    file_trees.touch(tmp_path, f'a/{i}/x.jpg')
    for j in range(12):
      file_trees.link(tmp_path / 'a' / str(i) / f'to{j}', f'../{j}')
  assert len(file_trees.paths_of(folders.open_folder(tmp_path))) == 2 + 12


def test_links_that_lead_nowhere_are_seen_when_read(tmp_path):
  file_trees.link(tmp_path / 'train' / 'a' / 'gone.jpg', 'nowhere.jpg')
  file_trees.link(tmp_path / 'train' / 'b' / 'circle.jpg', 'circle.jpg')
  source = folders.open_folder(file_trees.touch(tmp_path, 'test/a/1.jpg')).train
  assert source.paths == ('train/a/gone.jpg', 'train/b/circle.jpg')
  for index, path in enumerate(source.paths):
    with pytest.raises(OSError, match=path):
      source[index]


def test_what_is_no_file_is_no_image(tmp_path):
  file_trees.both(tmp_path, 'a', 'b')
  os.mkfifo(tmp_path / 'a' / 'pipe.jpg')
  file_trees.link(tmp_path / 'b' / 'linked.jpg', tmp_path / 'a' / 'pipe.jpg')
  assert len(file_trees.paths_of(folders.open_folder(tmp_path))) == 4


@pytest.mark.parametrize(
  'name', [b'a/\xff.jpg', b'\xff/1.jpg', b'a/\xff/x.txt']
)
def test_a_name_that_is_not_utf8_is_refused(tmp_path, name):
  path = os.fsencode(file_trees.both(tmp_path, 'a', 'b')) + b'/' + name
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb'):
      pass
  except OSError:
    pytest.skip('the file system takes no such names')
  message = file_trees.error_of(tmp_path)
  assert r'\udcff' in message and 'not UTF-8' in message
  message.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may list every folder')
def test_a_folder_that_may_not_be_listed_is_an_os_error(tmp_path):
  file_trees.both(tmp_path, 'a', 'b')
  (tmp_path / 'a').chmod(0)
  try:
    with pytest.raises(PermissionError, match=str(tmp_path / 'a')):
      folders.open_folder(tmp_path)
  finally:
    (tmp_path / 'a').chmod(0o700)
