"""Names of classes that are not those a set was prepared with."""

import shutil
import subprocess

import pytest

from hq_jax.data.sets import datasets
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests.data import tiny_pictures

_DAMAGES = {
  'missing': None,
  'empty': '',
  'cut in a name': '0\n1\n2\n3\n4\n5\n6\n7\n8\n',
  'a line less': '0\n1\n2\n3\n4\n5\n6\n7\n8\n9',
  'a line more': '0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n\n',
  'swapped': '1\n0\n2\n3\n4\n5\n6\n7\n8\n9\n',
  'reversed': '9\n8\n7\n6\n5\n4\n3\n2\n1\n0\n',
  'another name': '0\n1\n2\n3\n4\n5\n6\n7\n8\n8b\n',
  'a bit': '0\n1\n2\n3\n4\n5\n6\n7\n8\n;\n',
  'twice': '0\n1\n2\n3\n4\n5\n6\n7\n8\n8\n',
  'spaces': '0 \n1\n2\n3\n4\n5\n6\n7\n8\n9\n',
  'returns': '0\r\n1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n8\r\n9\r\n',
}


@pytest.fixture
def digits_copy(digits_dir, tmp_path):
  shutil.copytree(digits_dir / 'digits', tmp_path / 'digits')
  return tmp_path / 'digits' / '1.0.0'


def _check_refused(folder, message, load):
  with pytest.raises(ValueError, match=message) as caught:
    load()
  text = str(caught.value)
  assert text.startswith(f"data_dir: '{folder}' is damaged")
  assert '\n' not in text


@pytest.mark.parametrize('damage', _DAMAGES)
def test_names_of_a_set_that_was_prepared_here_are_known(digits_copy, damage):
  load = lambda: datasets.load('digits', digits_copy.parents[1])
  assert load().class_names == tuple('0123456789')
  file = digits_copy / 'label.labels.txt'
  if _DAMAGES[damage] is None:
    file.unlink()
  else:
    file.write_text(_DAMAGES[damage], newline='')
  _check_refused(digits_copy, r'label\.labels\.txt.? (and|is missing)', load)


@pytest.mark.parametrize('digest', ['', '0' * 64 + '  label.labels.txt\n'])
def test_a_damaged_digest_is_no_set_without_one(digits_copy, digest):
  (digits_copy / 'class_names.sha256').write_text(digest)
  load = lambda: datasets.load('digits', digits_copy.parents[1])
  _check_refused(digits_copy, r'label\.labels\.txt.? (and|is missing)', load)


def test_sha256sum_reads_the_digest(digits_copy):
  done = subprocess.run(
    ['sha256sum', '--check', 'class_names.sha256'],
    cwd=digits_copy,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stdout) == (0, 'label.labels.txt: OK\n')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'cat\ndog\nem', 'ends within a line'),
    (b'', 'has 0 lines, wanted 3'),
    (b'cat\ndog\n', 'has 2 lines, wanted 3'),
    (b'cat\n\ndog\nemu\n', 'has 4 lines, wanted 3'),
    (b'cat\n \nemu\n', "has the name '', wanted text"),
    (b'cat\ndog\ne\x0du\n', r"has the name 'e\\ru', wanted text"),
    (b'cat\ndog\ndog\n', "has the name 'dog' twice"),
    (b'cat\ndog\n\xff\n', 'is not UTF-8'),
  ],
)
def test_names_without_a_digest_are_looked_at(pictures_copy, content, message):
  names = tiny_pictures.CLASSES
  assert prepared.open_prepared(pictures_copy).class_names == names
  (pictures_copy / 'kind.labels.txt').write_bytes(content)
  load = lambda: prepared.open_prepared(pictures_copy)
  _check_refused(pictures_copy, rf'\(kind\.labels\.txt {message}\)', load)


def test_a_set_without_names_has_no_digest(digits_copy):
  # Its classes are numbers, of which TFDS writes no file.
  for name in ('label.labels.txt', 'class_names.sha256'):
    (digits_copy / name).unlink()
  folder = lookup.find('digits', digits_copy.parents[1])
  names = prepared.open_prepared(folder).class_names
  assert names == tuple('0123456789')
