"""What a set is made from: put there by hand, downloaded, or out of reach."""

import gzip
import hashlib
import http.server
import io
import pathlib
import shutil
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import fashion_mnist
from hq_jax.data import prepare
from hq_jax.data.sets import datasets
from hq_jax.data.tfds import downloads
from tests import tiny_sets

_PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy')


class FetchedSet(tiny_sets.TinySet):
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


@pytest.mark.parametrize('present', [None, (), ('train',), ('val',)])
def test_imagenet_without_its_archives_says_what_goes_where(
  present, tmp_path, capsys
):
  manual = tmp_path / 'data' / 'downloads' / 'manual'  # By default.
  flags = [f'--data_dir={tmp_path / "data"}']
  if present is not None:
    manual = tmp_path / 'manual'
    manual.mkdir()
    flags.append(f'--manual_dir={manual}')
  for split in present or ():
    (manual / f'ILSVRC2012_img_{split}.tar').touch()
  err = tiny_sets.check_refused(capsys, 'imagenet2012', *flags)
  for split in ('train', 'val'):
    is_missing = split not in (present or ())
    assert (f'ILSVRC2012_img_{split}.tar' in err) == is_missing
  assert str(manual) in err and 'https://image-net.org' in err


def test_what_was_put_there_by_hand_needs_no_network(tmp_path, capsys):
  (tmp_path / 'pixels.bin').write_bytes(b'\x07')
  flags = [f'--data_dir={tmp_path / "data"}', f'--manual_dir={tmp_path}']
  assert tiny_sets.run(capsys, 'by_hand_set', *flags)[0] == 0


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
  assert tiny_sets.read(folder) == [(5, 0), (6, 1), (7, 0)]


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
  err = tiny_sets.check_refused(capsys, 'fetched_set', f'--data_dir={tmp_path}')
  # TFDS itself tries for minutes.
  assert time.monotonic() - start < 10
  assert '127.0.0.1 cannot be reached (ConnectionError)' in err
  assert 'HTTPS_PROXY' in err
  assert not list(tmp_path.iterdir())


def test_a_host_that_never_answers_is_given_up(
  fetch_from, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(downloads, '_PROBE_SECONDS', 0.2)
  with socket.create_server(('127.0.0.1', 0)) as silent:
    fetch_from(f'http://127.0.0.1:{silent.getsockname()[1]}/pixels.bin')
    err = tiny_sets.check_refused(
      capsys, 'fetched_set', f'--data_dir={tmp_path}'
    )
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
  assert tiny_sets.read(folder) == [(5, 0), (6, 1), (7, 0)]


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
  assert tiny_sets.read(folder) == [(5, 0), (6, 1), (7, 0)]
  assert server.asked == []


@pytest.mark.parametrize('is_damaged', [False, True])
def test_files_of_a_debian_package_are_those_that_are_published(
  is_damaged, tmp_path, capsys, monkeypatch
):
  # Debian leaves the name and the time out of a gzip file's header.
  name = 'train-labels-idx1-ubyte.gz'
  published = io.BytesIO()
  with gzip.GzipFile(name[:-3], 'wb', 9, published, 1504176606) as file:
    file.write(b'labels')
  whole = bytearray(published.getvalue())
  whole[8:10] = b'\0\x03'  # As gzip itself writes it.
  info = tfds.download.checksums.UrlInfo(
    size=tfds.core.units.Size(len(whole)),
    checksum=hashlib.sha256(whole).hexdigest(),
    filename=name,
  )
  url = f'http://set.invalid/{name}'
  monkeypatch.setattr(FetchedSet, 'url', url)
  monkeypatch.setattr(FetchedSet, 'url_infos', {url: info})
  content = whole[10 + len(name[:-3]) + 1 :]
  content[-1] ^= is_damaged
  stripped = b'\x1f\x8b\x08\0\xed\x0a\xda\x5e\0\x03' + content
  (tmp_path / name).write_bytes(stripped)
  flags = [f'--data_dir={tmp_path / "data"}', f'--manual_dir={tmp_path}']
  if is_damaged:
    assert 'wrong checksum' in tiny_sets.check_refused(
      capsys, 'fetched_set', *flags
    )
    return
  assert tiny_sets.run(capsys, 'fetched_set', *flags)[0] == 0
  found = tiny_sets.read(tmp_path / 'data' / 'fetched_set' / '1.0.0')
  assert [pixel for pixel, _ in found] == sorted(whole)
  assert (tmp_path / name).read_bytes() == stripped


@pytest.mark.slow
def test_fashion_mnist_is_prepared_from_debians_files(tmp_path):
  pytest.importorskip('tensorflow')
  data = fashion_mnist.get_config().data
  if not pathlib.Path(data.data_dir).is_dir():
    pytest.skip('no dataset-fashion-mnist')
  prepare.prepare('fashion_mnist', tmp_path, data.data_dir)
  found = datasets.load('fashion_mnist', tmp_path)
  wanted = datasets.load('idx', data.data_dir, class_names=data.class_names)
  np.testing.assert_allclose(found.pixel_mean, wanted.pixel_mean, rtol=1e-3)
  # TFDS shuffles, and writes 'T - shirt / top'.
  for split, same in ((found.train, wanted.train), (found.test, wanted.test)):
    digests = [
      sorted(
        hash((image.tobytes(), int(label)))
        for image, label in zip(x.images, x.labels, strict=True)
      )
      for x in (split, same)
    ]
    assert digests[0] == digests[1]
