import hashlib
import http.server
import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from hq_jax import prepare
from hq_jax.data import prepared
from tests import runs

_HAS_TENSORFLOW = importlib.util.find_spec('tensorflow') is not None
_PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy')


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Four images of 2x3 whose pixels are their number; no download."""

  VERSION = tfds.core.Version('1.0.0')
  IMAGE = tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': self.IMAGE, 'label': tfds.features.ClassLabel(num_classes=2)}
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples() for split in ('train', 'test')}

  def _generate_examples(self):
    for number in range(4):
      image = np.full(self.IMAGE.shape, number, np.uint8)
      yield number, {'image': image, 'label': number % 2}


class PlainSet(_Builder):
  name = 'plain_set'


class RacedSet(_Builder):
  """Another process puts its folder there while this one is writing."""

  name = 'raced_set'

  def _generate_examples(self):
    if not hasattr(RacedSet, 'other'):
      RacedSet.other = RacedSet(
        data_dir=self._data_dir_root, file_format='array_record'
      )
      RacedSet.other.download_and_prepare()
    yield from super()._generate_examples()


class BrokenSet(_Builder):
  name = 'broken_set'

  def _generate_examples(self):
    yield from super()._generate_examples()
    raise RuntimeError('the archive\nis broken')


class EncodedSet(_Builder):
  """TFDS encodes arrays as PNG by TensorFlow."""

  name = 'encoded_set'
  IMAGE = tfds.features.Image(shape=(2, 3, 1))


class FetchedSet(_Builder):
  """One file of pixels, which is downloaded."""

  name = 'fetched_set'
  url = 'http://127.0.0.1/pixels.bin'
  url_infos = {}  # noqa: RUF012

  def _split_generators(self, dl_manager):
    self.pixels = pathlib.Path(dl_manager.download(self.url)).read_bytes()
    return super()._split_generators(dl_manager)

  def _generate_examples(self):
    for number, pixel in enumerate(self.pixels):
      image = np.full((2, 3, 1), pixel, np.uint8)
      yield number, {'image': image, 'label': number % 2}


class ByHandSet(_Builder):
  name = 'by_hand_set'
  MANUAL_DOWNLOAD_INSTRUCTIONS = """Put pixels.bin
  into manual_dir."""


def run(capsys, *argv):
  """The exit status and what is on stdout and stderr."""
  capsys.readouterr()
  status = prepare.main(argv)
  return status, *capsys.readouterr()


def check_refused(capsys, *argv):
  """The one line that it is refused with."""
  status, out, err = run(capsys, *argv)
  assert (status, out) == (2, '')
  assert err.startswith('hq_jax: ') and err.endswith('\n')
  assert err.count('\n') == 1
  return err


def listing(folder):
  return {
    str(path.relative_to(folder)): path.stat().st_mtime_ns
    for path in folder.rglob('*')
  }


def read(folder):
  """The pixel and the label of the training images, in the order of pixels."""
  source = prepared.open_prepared(folder).train
  return sorted((int(x['image'].max()), x['label']) for x in source)


def test_a_set_is_prepared_once(tmp_path, capsys):
  flag = f'--data_dir={tmp_path}'
  folder = tmp_path / 'plain_set' / '1.0.0'
  status, out, err = run(capsys, 'plain_set', flag)
  assert (status, err) == (0, '')
  assert out == f'plain_set is prepared in {folder}: train 4, test 4\n'
  assert read(folder) == [(0, 0), (1, 1), (2, 0), (3, 1)]
  before = listing(tmp_path)
  for name in ('plain_set', 'plain_set:1.0.0'):
    status, out, err = run(capsys, name, flag)
    assert (status, err) == (0, '')
    assert out == f'{name} is prepared already in {folder}: train 4, test 4\n'
  assert listing(tmp_path) == before


def test_sets_that_are_generated_may_be_prepared_too(tmp_path, capsys):
  status, out, err = run(capsys, 'digits', f'--data_dir={tmp_path}')
  assert (status, err) == (0, '')
  assert out.startswith('digits is prepared in ')
  assert out.endswith(': train 1,297, test 500\n')


def test_the_environment_names_the_data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert prepare.prepare('plain_set') == tmp_path / 'plain_set' / '1.0.0'


def test_progress_is_shown_on_demand(tmp_path, capfd):
  prepare.prepare('plain_set', tmp_path / 'a')
  assert capfd.readouterr() == ('', '')
  prepare.prepare('plain_set', tmp_path / 'b', show_progress=True)
  out, err = capfd.readouterr()
  assert out == '' and 'Generating splits' in err


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    ([], 'NAME is missing'),
    (['a', 'b'], "'b' is not known"),
    (['a', '--data=b'], "'--data=b' is not known"),
    (['--data_dir'], '--data_dir'),
    (['Plain Set'], "name: got 'Plain Set', wanted"),
    (['plain_sat'], "no data set 'plain_sat', but plain_set"),
    (['zzzzzz'], "no data set 'zzzzzz'\n"),
    (['plain_set/a'], "plain_set has no config 'a', wanted none"),
    (['imagenet_resized/9'], "no config '9', wanted one of 8x8, 16x16"),
    (['plain_set:2.0.0'], 'version 2.0.0, only: 1.0.0'),
    (['plain_set', '--manual_dir=/no/where'], "manual_dir: '/no/where'"),
    (
      ['broken_set'],
      'broken_set cannot be prepared (RuntimeError: the archive',
    ),
    # Before anything is downloaded, and before TensorFlow is asked for.
    (['voc'], 'voc: got the features image (Image), image/filename (Text)'),
    (['by_hand_set'], 'is empty: Put pixels.bin into manual_dir.'),
  ],
)
def test_what_is_refused_is_one_line(arguments, word, tmp_path, capsys):
  root = tmp_path / 'data'
  flags = [f'--data_dir={root}'] if arguments else []
  assert word in check_refused(capsys, *flags, *arguments)
  assert not list(root.rglob('*.json'))


def test_help_explains(capsys):
  status, out, err = run(capsys, '--help')
  assert (status, err) == (0, '')
  for word in ('NAME', '--data_dir', '--manual_dir', 'cifar10', 'Exit status'):
    assert word in out


def test_data_dir_that_is_a_file(tmp_path, capsys):
  file = tmp_path / 'file'
  file.touch()
  assert 'not a folder' in check_refused(
    capsys, 'plain_set', f'--data_dir={file}'
  )


@pytest.mark.parametrize('present', [(), ('train',), ('val',)])
def test_imagenet_without_its_archives_says_what_goes_where(
  present, tmp_path, capsys
):
  manual = tmp_path / 'manual'
  manual.mkdir()
  for split in present:
    (manual / f'ILSVRC2012_img_{split}.tar').touch()
  flags = [f'--data_dir={tmp_path / "data"}', f'--manual_dir={manual}']
  err = check_refused(capsys, 'imagenet2012', *flags)
  for split in ('train', 'val'):
    assert (f'ILSVRC2012_img_{split}.tar' in err) == (split not in present)
  assert str(manual) in err and 'https://image-net.org' in err


def test_the_default_manual_dir_is_named(tmp_path, capsys):
  err = check_refused(capsys, 'imagenet2012', f'--data_dir={tmp_path}')
  assert str(tmp_path / 'downloads' / 'manual') in err


def test_what_was_put_there_by_hand_needs_no_network(tmp_path, capsys):
  (tmp_path / 'pixels.bin').write_bytes(b'\x07')
  flags = [f'--data_dir={tmp_path / "data"}', f'--manual_dir={tmp_path}']
  assert run(capsys, 'by_hand_set', *flags)[0] == 0


@pytest.mark.skipif(_HAS_TENSORFLOW, reason='TensorFlow is installed')
@pytest.mark.parametrize('name', ['cifar10', 'coco', 'encoded_set'])
def test_missing_tensorflow_is_named_with_the_remedy(name, tmp_path, capsys):
  # Before a download, while the set is looked up, and in the middle.
  err = check_refused(capsys, name, f'--data_dir={tmp_path}')
  assert f'{name} needs TensorFlow' in err
  assert 'pip install "hq_jax[prepare]"' in err
  assert not list(tmp_path.rglob('*.json'))


@pytest.mark.slow
def test_images_that_tensorflow_encodes(tmp_path, capsys):
  pytest.importorskip('tensorflow')
  status, _, _ = run(capsys, 'encoded_set', f'--data_dir={tmp_path}')
  assert status == 0
  folder = prepared.find('encoded_set', tmp_path)
  pixels = []
  for example in prepared.open_prepared(folder).train:
    with Image.open(io.BytesIO(example['image'])) as image:
      assert image.size == (3, 2)
      pixels.append((image.getpixel((0, 0)), example['label']))
  assert sorted(pixels) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_another_file_format_says_what_to_do(tmp_path, capsys):
  folder = prepare.prepare('plain_set', tmp_path)
  file = folder / 'dataset_info.json'
  found = json.loads(file.read_text())
  file.write_text(json.dumps(found | {'fileFormat': 'tfrecord'}))
  err = check_refused(capsys, 'plain_set', f'--data_dir={tmp_path}')
  assert 'file format tfrecord, wanted array_record' in err
  assert f"'{folder}'" in err and 'delete that folder' in err


def test_an_incomplete_folder_is_not_taken_for_prepared(tmp_path, capsys):
  folder = prepare.prepare('plain_set', tmp_path)
  (folder / 'dataset_info.json').unlink()
  err = check_refused(capsys, 'plain_set', f'--data_dir={tmp_path}')
  assert f"'{folder}' is incomplete: delete that folder" in err


def test_the_folder_of_a_process_that_was_first_is_kept(tmp_path):
  folder = prepare.prepare('raced_set', tmp_path)
  assert read(folder) == [(0, 0), (1, 1), (2, 0), (3, 1)]
  assert RacedSet.other.data_dir == str(folder)
  assert sorted(os.listdir(folder.parent)) == ['1.0.0']


_STALL = """
import pathlib, sys, time
from hq_jax import prepare
from tests import test_prepare

class StalledSet(test_prepare._Builder):
  name = 'stalled_set'

  def _generate_examples(self):
    yield from super()._generate_examples()
    if sys.argv[2] == 'stall':
      pathlib.Path(sys.argv[1], 'ready').touch()
      time.sleep(600)

sys.exit(prepare.main(['stalled_set', f'--data_dir={sys.argv[1]}']))
"""


def _start_stalled(data_dir, how):
  return subprocess.Popen(
    [sys.executable, '-c', _STALL, str(data_dir), how], cwd=runs.ROOT
  )


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_looks_prepared(tmp_path):
  process = _start_stalled(tmp_path, 'stall')
  try:
    deadline = time.monotonic() + 60
    while not (tmp_path / 'ready').exists():
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.01)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  (left,) = (tmp_path / 'stalled_set').iterdir()
  assert left.name.startswith('incomplete.')
  assert prepared.find('stalled_set', tmp_path) is None
  assert _start_stalled(tmp_path, 'go on').wait(60) == 0
  assert len(read(prepared.find('stalled_set', tmp_path))) == 4


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers like a proxy, too: the path is then the whole address."""

  def do_HEAD(self):
    self.send_error(405)  # An answer all the same.

  def do_GET(self):
    self.server.asked.append(self.path)
    self.send_response(200)
    self.send_header('Content-Length', '3')
    self.end_headers()
    self.wfile.write(b'\x05\x06\x07')

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler) as server:
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def fetch_from(monkeypatch):
  """Sets the address that the set is downloaded from; no proxy but a test's."""
  for name in _PROXIES:
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)

  def set_url(url):
    info = tfds.download.checksums.UrlInfo(
      size=tfds.core.units.Size(3),
      checksum=hashlib.sha256(b'\x05\x06\x07').hexdigest(),
      filename='pixels.bin',
    )
    monkeypatch.setattr(FetchedSet, 'url', url)
    monkeypatch.setattr(FetchedSet, 'url_infos', {url: info})

  return set_url


def closed_port():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def test_a_download_where_the_network_answers(server, fetch_from, tmp_path):
  fetch_from(f'http://127.0.0.1:{server.server_port}/pixels.bin')
  folder = prepare.prepare('fetched_set', tmp_path)
  assert server.asked == ['/pixels.bin']
  assert read(folder) == [(5, 0), (6, 1), (7, 0)]


def test_a_proxy_of_the_environment_is_used(
  server, fetch_from, tmp_path, monkeypatch
):
  fetch_from('http://set.invalid/pixels.bin')
  proxy = f'http://127.0.0.1:{server.server_port}'
  monkeypatch.setenv('http_proxy', proxy)
  prepare.prepare('fetched_set', tmp_path)
  assert server.asked == ['http://set.invalid/pixels.bin']


def test_no_network_is_noticed_at_once(fetch_from, tmp_path, capsys):
  fetch_from(f'http://127.0.0.1:{closed_port()}/pixels.bin')
  start = time.monotonic()
  err = check_refused(capsys, 'fetched_set', f'--data_dir={tmp_path}')
  # TFDS itself tries for minutes.
  assert time.monotonic() - start < 10
  assert '127.0.0.1 cannot be reached (ConnectionError)' in err
  assert 'HTTPS_PROXY' in err
  assert not list(tmp_path.iterdir())


def test_a_host_that_never_answers_is_given_up(
  fetch_from, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(prepare, '_PROBE_SECONDS', 0.2)
  with socket.create_server(('127.0.0.1', 0)) as silent:
    fetch_from(f'http://127.0.0.1:{silent.getsockname()[1]}/pixels.bin')
    err = check_refused(capsys, 'fetched_set', f'--data_dir={tmp_path}')
  assert '127.0.0.1 cannot be reached (ReadTimeout)' in err


def test_a_file_in_manual_dir_replaces_its_download(
  fetch_from, tmp_path, capsys
):
  fetch_from(f'http://127.0.0.1:{closed_port()}/pixels.bin')
  (tmp_path / 'manual').mkdir()
  (tmp_path / 'manual' / 'pixels.bin').write_bytes(b'\x05\x06\x07')
  folder = prepare.prepare(
    'fetched_set', tmp_path / 'data', tmp_path / 'manual'
  )
  assert read(folder) == [(5, 0), (6, 1), (7, 0)]


@pytest.mark.parametrize('is_old', [False, True])
def test_what_was_downloaded_before_needs_no_network(
  is_old, server, fetch_from, tmp_path
):
  fetch_from(f'http://127.0.0.1:{server.server_port}/pixels.bin')
  folder = prepare.prepare('fetched_set', tmp_path)
  shutil.rmtree(folder)
  if is_old:  # Where older releases of TFDS put it.
    for path in (tmp_path / 'downloads' / 'fetched_set').iterdir():
      path.rename(tmp_path / 'downloads' / path.name)
  server.asked.clear()
  server.shutdown()
  server.server_close()
  assert prepare.prepare('fetched_set', tmp_path) == folder
  assert read(folder) == [(5, 0), (6, 1), (7, 0)]
  assert server.asked == []


def test_it_needs_no_jax(tmp_path):
  source = f"""
import runpy, sys
sys.argv[1:] = ['imagenet2012', '--data_dir={tmp_path}']
try:
  runpy.run_module('hq_jax.prepare', run_name='__main__')
except SystemExit as end:
  print(end.code)
print(sorted({{'jax', 'jaxlib', 'flax', 'optax'}} & set(sys.modules)))
"""
  done = subprocess.run(
    [sys.executable, '-c', source],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == ['2', '[]']
