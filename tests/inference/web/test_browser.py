"""The page in a real Chromium, behind a file server and behind ours."""

import contextlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hq_jax
from hq_jax import artifact
from hq_jax.artifact import format as container
from hq_jax.inference.web import export
from hq_jax.inference.web import runtime
from tests.artifact import mutations
from tests.data import encoded
from tests.inference import drawn_files

playwright = pytest.importorskip('playwright.sync_api')

_CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(_CHROMIUM is None, reason='Chromium is not installed'),
]

_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  # A moving picture in the place of a camera, and no question about it.
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
)
_STATISTICS = {'mean': [123.0, 116.0, 103.0], 'std': [58.0, 57.0, 57.0]}
_NETWORKS = {
  'small_resnet': (
    {'widths': [8, 16], 'num_blocks': [1, 1]},
    (32, 32, 3),
    _STATISTICS | {'resize': 36, 'crop': 32},
  ),
  'mobilenet_v2': (
    {},
    (64, 64, 3),
    _STATISTICS | {'resize': 72, 'crop': 64},
  ),
  'vit': (
    {'patch_size': 4, 'width': 32, 'depth': 2, 'num_heads': 2},
    (32, 32, 3),
    _STATISTICS,
  ),
  'mlp': (
    {'widths': [16]},
    (8, 8, 1),
    {'pixel_max': 16, 'mean': [4.0], 'std': [3.0]},
  ),
}


@pytest.fixture(scope='module')
def package(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runtime')
  try:
    return runtime.download(str(folder))
  except ValueError as error:
    pytest.skip(str(error))


@pytest.fixture(scope='module')
def browser():
  with playwright.sync_playwright() as driver:
    found = driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
    yield found
    found.close()


@pytest.fixture
def page(browser):
  """A page of a phone's width, which keeps what the engine answers."""
  with browser.new_page(viewport={'width': 390, 'height': 844}) as found:
    found.add_init_script(
      "document.addEventListener('classified', e => window.found = e.detail)"
    )
    yield found


@contextlib.contextmanager
def _run(*command):
  """A server in its own process, and the address that it says."""
  with subprocess.Popen(
    [sys.executable, '-u', *command],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:
    assert process.stdout is not None
    try:
      found = re.search(r'http://127.0.0.1:\d+', process.stdout.readline())
      assert found is not None
      yield found[0]
    finally:
      process.terminate()


def _serve_folder(folder):
  command = '-m', 'http.server', '--bind', '127.0.0.1', '--directory'
  return _run(*command, str(folder), '0')


def _write(name, path):
  arguments, shape, preprocessing = _NETWORKS[name]
  made = drawn_files.make(name, arguments, shape)
  names = tuple(f'<b>cläss {i}</b>' for i in range(len(made.class_names)))
  artifact.write(
    path, made._replace(preprocessing=preprocessing, class_names=names)
  )


def _draw_pictures():
  """Files of every kind, by name, and how far the logits may be off."""
  smooth = encoded.draw_smooth(90, 131)
  grey = smooth.convert('L')
  turned = smooth.getexif()
  turned[0x0112] = 6
  clear = smooth.copy()
  clear.putalpha(grey)
  return {
    'a.png': (encoded.encode(smooth), 1e-4),
    'a.jpg': (encoded.encode(smooth, 'JPEG', quality=90), 1e-4),
    'a.webp': (encoded.encode(smooth, 'WEBP'), 1e-4),
    'a.gif': (encoded.encode(smooth, 'GIF'), 1e-4),
    'grey.jpg': (encoded.encode(grey, 'JPEG'), 1e-4),
    # Pillow resizes these before it turns them, and browsers round what is
    # transparent: some pixels differ by one.
    'turned.jpg': (encoded.encode(smooth, 'JPEG', exif=turned), 0.02),
    'clear.png': (encoded.encode(clear), 0.02),
  }


def _open(page, url):
  """Opens the page and waits until it is ready or says why not."""
  requests = []
  page.on('request', lambda request: requests.append(request.url))
  page.goto(url)
  page.wait_for_selector('body:not(.loading), #status.bad', timeout=120_000)
  return requests


def _classify(page, name, data):
  page.evaluate('window.found = null')
  kind = f'image/{name.partition(".")[2].replace("jpg", "jpeg")}'
  page.set_input_files(
    '#file', {'name': name, 'mimeType': kind, 'buffer': data}
  )
  return _wait(page)


def _wait(page):
  page.wait_for_selector('#classes li, #status.bad', timeout=60_000)
  assert page.query_selector('#status.bad') is None, page.inner_text('#status')
  return page.evaluate('window.found')


def _check_shown(page, prediction):
  assert page.locator('#classes .name').all_inner_texts() == [
    *prediction.classes
  ]
  shown = page.locator('#classes .percent').all_inner_texts()
  for text, probability in zip(shown, prediction.probabilities, strict=True):
    assert abs(float(text.rstrip('%')) - 100 * probability) < 0.2


@pytest.mark.parametrize('name', _NETWORKS)
def test_the_folder_classifies_as_python_does(name, tmp_path, page, package):
  _write(name, tmp_path / 'net.hq')
  export.export(tmp_path / 'net.hq', tmp_path / 'web', runtime=package)
  classifier = hq_jax.load(tmp_path / 'net.hq')
  with _serve_folder(tmp_path / 'web') as url:
    requests = _open(page, url)
    for picture, (data, tolerance) in _draw_pictures().items():
      found = _classify(page, picture, data)
      expected = classifier.logits(data)[0]
      error = np.abs(np.array(found['logits']) - expected).max()
      assert error / np.abs(expected).max() < tolerance, picture
      if tolerance < 1e-3:
        _check_shown(page, classifier.predict(data, top=5))
  assert {x for x in requests if not x.startswith((url, 'blob:', 'data:'))} == (
    set()
  )
  assert page.evaluate('document.documentElement.scrollWidth') <= 390


def test_the_camera_is_seen(tmp_path, page, package):
  _write('small_resnet', tmp_path / 'net.hq')
  export.export(tmp_path / 'net.hq', tmp_path / 'web', runtime=package)
  with _serve_folder(tmp_path / 'web') as url:
    _open(page, url)
    page.click('#camera')
    page.wait_for_function('() => document.querySelector("#video").videoWidth')
    page.click('#shoot')
    assert len(_wait(page)['logits']) == drawn_files.NUM_CLASSES
    assert page.is_visible('#picture') and not page.is_visible('#video')


def test_what_cannot_be_used_is_said(tmp_path, page, package):
  _write('mlp', tmp_path / 'net.hq')
  export.export(tmp_path / 'net.hq', tmp_path / 'web', runtime=package)
  sections = container.unpack((tmp_path / 'net.hq').read_bytes())
  longer = [
    (name, bytes(body) + (b'!' if name == 'TF16' else b''))
    for name, body in sections.items()
  ]
  with _serve_folder(tmp_path / 'web') as url:
    _open(page, url)
    text = {'name': 'a.png', 'mimeType': 'image/png', 'buffer': b'no picture'}
    page.set_input_files('#file', text)
    page.wait_for_selector('#status.bad')
    assert 'this is no picture' in page.inner_text('#status')
    # What Node's decoder lets pass: see test_decoder.py.
    (tmp_path / 'web' / 'model.hq').write_bytes(mutations.pack(longer))
    _open(page, url)
    assert page.inner_text('#status') == (
      'The model could not be loaded: section TF16: damaged DEFLATE stream'
    )
    assert page.is_disabled('#file')


def test_our_server_shows_the_same_page(tmp_path, page):
  _write('small_resnet', tmp_path / 'net.hq')
  classifier = hq_jax.load(tmp_path / 'net.hq')
  pictures = _draw_pictures()
  command = '-m', 'hq_jax', 'serve', str(tmp_path / 'net.hq'), '--port=0'
  with _run(*command) as url:
    _open(page, url)
    assert 'on the server' in page.inner_text('#engine')
    for picture, (data, _) in pictures.items():
      _classify(page, picture, data)
      _check_shown(page, classifier.predict(data, top=5))
