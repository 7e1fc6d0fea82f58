"""What a server answers to requests, right and wrong."""

import base64
from concurrent import futures
import contextlib
import dataclasses
import http.client
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
from PIL import Image
import pytest

from benchmarks import malformed_requests
from hq_jax.inference import classifier as classifier_lib
from hq_jax.inference.server import app as app_lib
from hq_jax.inference.server import serving
from hq_jax.inference.server import settings as settings_lib
from hq_jax.inference.server import v2

_PNG = {'Content-Type': 'image/png'}
_INFER = '/v2/models/digits/infer'


@contextlib.contextmanager
def _serve(classifier, **fields):
  """A client of a server in a thread; nothing may be held in the end."""
  settings = settings_lib.Settings(**fields)
  server = app_lib.Server(classifier, 'digits', {'layers': []}, settings)
  process = serving.Uvicorn(server.make_app(), settings, '')
  with (
    socket.create_server(('127.0.0.1', 0)) as listener,
    httpx.Client(base_url=serving.format_url(listener), timeout=30) as client,
    futures.ThreadPoolExecutor(1) as thread,
  ):
    run = thread.submit(process.run, [listener])
    try:
      yield client
      assert 'hq_queue_images 0.0' in client.get('/metrics').text
      assert server._bytes.used == 0
    finally:
      process.should_exit = True
      run.result()


@pytest.fixture(scope='module')
def client(classifier):
  with _serve(classifier, max_body_mb=0.1, max_queue=4) as client:
    yield client


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  formats = 'PNG', 'JPEG', 'WEBP'
  return [malformed_requests.make_image(rng, name) for name in formats]


def _check_error(answer, status, *words):
  assert answer.status_code == status
  message = answer.json()['error']
  assert message.isprintable()
  for word in words:
    assert word in message


def _check_result(found, wanted):
  assert found['classes'] == list(wanted.classes)
  np.testing.assert_allclose(
    found['probabilities'], wanted.probabilities, rtol=1e-5
  )


@pytest.mark.parametrize('kind', ['image/png', 'application/octet-stream', ''])
def test_predict_takes_an_image(client, classifier, images, kind):
  headers = {'Content-Type': kind} if kind else {}
  answer = client.post('/predict?top=3', content=images[0], headers=headers)
  assert answer.status_code == 200
  (result,) = answer.json()['results']
  assert result['image'] is None
  _check_result(result, classifier.predict(images[0], top=3))


def test_predict_takes_several_files(client, classifier, images):
  files = [('a', (f'{i}.x', image)) for i, image in enumerate(images)]
  answer = client.post('/predict', files=files)
  results = answer.json()['results']
  assert [result['image'] for result in results] == ['0.x', '1.x', '2.x']
  for result, wanted in zip(
    results, classifier.predict(images, top=5), strict=True
  ):
    _check_result(result, wanted)


def _infer(client, tensor, headers=None, content=None, **fields):
  body = json.dumps({'inputs': [{'name': 'images', **tensor}], **fields})
  return client.post(_INFER, content=content or body, headers=headers)


def test_infer_takes_normalized_images_pixels_and_files(
  client, classifier, images
):
  normalized = classifier.preprocess(images)
  pixels = np.random.default_rng(1).integers(0, 17, (2, 8, 8, 1), np.uint8)
  for tensor, given in (
    (
      {
        'datatype': 'FP32',
        'shape': [3, 8, 8, 1],
        'data': normalized.tolist(),
      },
      images,
    ),
    (
      {
        'datatype': 'UINT8',
        'shape': [2, 8, 8, 1],
        'data': pixels.ravel().tolist(),
      },
      pixels,
    ),
    (
      {
        'datatype': 'BYTES',
        'shape': [3],
        'data': [base64.b64encode(image).decode() for image in images],
      },
      images,
    ),
  ):
    found = _infer(client, tensor, id='some').json()
    assert (found['model_name'], found['id']) == ('digits', 'some')
    outputs = {output['name']: output for output in found['outputs']}
    shape = [len(given), 10]
    assert outputs['logits']['shape'] == shape
    logits = np.reshape(outputs['logits']['data'], shape)
    np.testing.assert_allclose(logits, classifier.logits(given), atol=1e-5)
    best = [item.classes[0] for item in classifier.predict(given)]
    assert outputs['classes']['data'] == best
    probabilities = np.reshape(outputs['probabilities']['data'], shape)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_infer_in_binary(client, classifier, images):
  blob = b''.join(len(image).to_bytes(4, 'little') + image for image in images)
  tensor = {
    'name': 'images',
    'datatype': 'BYTES',
    'shape': [3],
    'parameters': {'binary_data_size': len(blob)},
  }
  binary = {'binary_data': True}
  asked = [
    {'name': 'classes', 'parameters': binary},
    {'name': 'logits', 'parameters': binary},
    {'name': 'probabilities'},
  ]
  header = json.dumps({'inputs': [tensor], 'outputs': asked}).encode()
  answer = client.post(
    _INFER,
    content=header + blob,
    headers={v2.LENGTH_HEADER: str(len(header))},
  )
  length = int(answer.headers[v2.LENGTH_HEADER])
  classes, logits, probabilities = json.loads(answer.content[:length])[
    'outputs'
  ]
  assert 'parameters' not in probabilities
  at = length + classes['parameters']['binary_data_size']
  best = [item.classes[0] for item in classifier.predict(images)]
  joined = b''.join(
    len(name).to_bytes(4, 'little') + name.encode() for name in best
  )
  assert answer.content[length:at] == joined
  assert logits['parameters']['binary_data_size'] == 3 * 10 * 4
  np.testing.assert_allclose(
    np.frombuffer(answer.content[at:], '<f4').reshape(3, 10),
    classifier.logits(images),
    atol=1e-5,
  )


@pytest.mark.parametrize('version', ['', '/versions/1'])
def test_the_model_is_described(client, version):
  metadata = client.get(f'/v2/models/digits{version}').json()
  assert metadata['inputs'][0]['shape'] == [-1, 8, 8, 1]
  assert client.get(f'/v2/models/digits{version}/ready').json()['ready']
  assert 'binary_tensor_data' in client.get('/v2').json()['extensions']
  for path in ('/health', '/v2/health/live', '/v2/health/ready', '/model.json'):
    assert client.get(path).status_code == 200


def test_the_page_is_there_with_all_it_asks_for(client):
  page = client.get('/')
  assert page.headers['Content-Type'].startswith('text/html')
  assert client.get('/index.html').text == page.text
  for name, kind in (
    ('page.js', 'text/javascript'),
    ('style.css', 'text/css'),
    ('decoder/hq.js', 'text/javascript'),
  ):
    answer = client.get(f'/{name}')
    assert answer.headers['Content-Type'].startswith(kind)
  _check_error(client.get('/../app.py'), 404)
  _check_error(client.get('/%2e%2e/server/app.py'), 404)


@pytest.mark.slow
def test_the_client_of_triton(client, classifier, images):
  triton = pytest.importorskip('tritonclient.http')
  asking = triton.InferenceServerClient(client.base_url.netloc.decode())
  assert asking.is_server_live() and asking.is_server_ready()
  assert asking.is_model_ready('digits') and not asking.is_model_ready('other')
  assert asking.get_model_metadata('digits')['versions'] == ['1']
  values = classifier.preprocess(images)
  for is_binary in (True, False):
    tensor = triton.InferInput('images', list(values.shape), 'FP32')
    tensor.set_data_from_numpy(values, binary_data=is_binary)
    output = triton.InferRequestedOutput('logits', binary_data=is_binary)
    for outputs in (None, [output]):
      answer = asking.infer('digits', [tensor], outputs=outputs)
      np.testing.assert_allclose(
        answer.as_numpy('logits'), classifier.logits(images), atol=1e-5
      )
  with pytest.raises(triton.InferenceServerException, match='images'):
    asking.infer('digits', [triton.InferInput('others', [1], 'FP32')])
  asking.close()


def test_every_malformed_request_is_refused(client):
  made = malformed_requests.make_requests('digits', (8, 8, 1), seed=0)
  seen = set()
  for kind, request in made:
    if kind in seen:
      break
    seen.add(kind)
    with socket.create_connection(
      (client.base_url.host, client.base_url.port)
    ) as connection:
      connection.sendall(request)
      answer = http.client.HTTPResponse(connection)
      answer.begin()
      assert 400 <= answer.status < 500, kind
      assert json.load(answer)['error'].isprintable(), kind
  assert len(seen) > 70


def test_errors_say_what_was_wanted(client, images):
  post = lambda path, content, kind='image/png': client.post(
    path, content=content, headers={'Content-Type': kind}
  )
  bomb = malformed_requests.make_bomb(9000, 9000)
  _check_error(post('/predict', bomb), 413, '9000x9000', '50,000,000')
  _check_error(
    post('/predict', malformed_requests.make_bomb(60000, 60000)), 413, 'pixels'
  )
  _check_error(post('/predict', b'a', 'text/plain'), 415, "'text/plain'")
  _check_error(post('/predict', b'a\x1b[2J'), 400, 'JPEG, PNG')
  _check_error(post('/predict', images[0][:-30]), 400, 'image is broken')
  _check_error(post('/predict?top=0', images[0]), 400, "top is '0'")
  _check_error(post('/predict?tip=1', images[0]), 400, "'tip'")
  huge = {'datatype': 'FP32', 'shape': [1, 8, 8, 1], 'data': [1e300] * 64}
  _check_error(_infer(client, huge), 400, 'images has values', 'finite')
  large = huge | {'data': [3e38] * 64}
  _check_error(_infer(client, large), 400, 'logits', 'not finite')
  _check_error(client.get('/predict'), 405)
  _check_error(client.get('/v2/models/other'), 404, '/v2/models/other')
  _check_error(client.get('/%1b[2J'), 404)
  files = [('a', ('a', images[0])), ('a', ('\x1b[2J', b'nothing'))]
  _check_error(client.post('/predict', files=files), 400, 'image 2')


def test_a_body_is_counted_as_it_comes(client):
  chunks = (b'a' * 1000 for _ in range(200))
  answer = client.post('/predict', content=chunks, headers=_PNG)
  _check_error(answer, 413, '100,000 bytes')


def test_more_images_than_the_queue_holds(client, images):
  files = [('a', (f'{i}', images[0])) for i in range(5)]
  _check_error(client.post('/predict', files=files), 400, 'Too many files')
  tensor = {'datatype': 'BYTES', 'shape': [5], 'data': [''] * 5}
  _check_error(_infer(client, tensor), 413, '5 images')


@pytest.fixture
def slow(classifier):
  """A classifier that computes once it is allowed to, and an event for it."""
  event = threading.Event()

  def apply(images):
    event.wait(10)
    return classifier.apply(images)

  yield dataclasses.replace(classifier, apply=apply), event
  event.set()


def test_large_images_are_decoded_one_at_a_time(classifier):
  at_once, most = [], []

  class Watched(classifier_lib.Classifier):
    def preprocess(self, images):
      at_once.append(1)
      time.sleep(0.05)
      most.append(len(at_once))
      try:
        return super().preprocess(images)
      finally:
        at_once.pop()

  watched = Watched(classifier.artifact, classifier.engine, classifier.apply)
  with _serve(watched, num_threads=3) as client:
    for sides, wanted in (((4000, 3000), 1), ((400, 300), 3)):
      most.clear()
      blank = io.BytesIO()
      Image.new('1', sides).save(blank, 'PNG')
      files = [('a', (str(i), blank.getvalue())) for i in range(3)]
      assert client.post('/predict', files=files).status_code == 200
      assert max(most) == wanted


def test_a_full_server_says_so(slow, images):
  classifier, event = slow
  with (
    _serve(classifier, max_queue=2, max_batch_size=1) as client,
    futures.ThreadPoolExecutor(4) as threads,
  ):
    post = lambda: client.post('/predict', content=images[0], headers=_PNG)
    pending = [threads.submit(post) for _ in range(4)]
    refused = [
      future.result()
      for future in futures.wait(
        pending, timeout=10, return_when=futures.FIRST_COMPLETED
      ).done
    ]
    for answer in refused:
      _check_error(answer, 503, 'come again')
      assert answer.headers['Retry-After'] == '1'
    event.set()
    statuses = sorted(future.result().status_code for future in pending)
    assert statuses == [200, 200, 503, 503]


def test_bodies_of_all_requests_are_bounded(classifier, images):
  with _serve(classifier, max_pending_mb=0.01) as client:
    answer = client.post('/predict', content=b'a' * 20_000, headers=_PNG)
    _check_error(answer, 503, 'the bodies')
    answer = client.post('/predict', content=images[1], headers=_PNG)
    assert answer.status_code == 200


def test_who_sends_slowly_is_cut_off(classifier):
  half = b'POST /predict HTTP/1.1\r\nHost: a\r\n'
  with _serve(classifier, timeout_seconds=0.3) as client:
    for sent, status in (
      (b'', None),
      (half, None),
      (half + b'Content-Length: 5\r\n\r\na', b'HTTP/1.1 408 '),
    ):
      with socket.create_connection(
        (client.base_url.host, client.base_url.port), timeout=10
      ) as connection:
        connection.sendall(sent)
        found = b''.join(iter(lambda c=connection: c.recv(10_000), b''))
      assert found.startswith(status) if status else not found


def test_no_answer_in_time(slow, images):
  classifier, event = slow
  with _serve(classifier, timeout_seconds=0.2) as client:
    answer = client.post('/predict', content=images[0], headers=_PNG)
    _check_error(answer, 504, '0.2 s')
    event.set()
    answer = client.post('/predict', content=images[0], headers=_PNG)
    assert answer.status_code == 200


def test_a_failure_of_the_server_is_told_in_its_log(classifier, images, capsys):
  def fail(_):
    raise RuntimeError('secret\x1b[2J')

  broken = dataclasses.replace(classifier, apply=fail)
  with _serve(broken) as client:
    answer = client.post('/predict', content=images[0], headers=_PNG)
    _check_error(answer, 500, 'log')
    assert 'secret' not in answer.text
  logged = capsys.readouterr().err
  assert 'POST /predict: RuntimeError: secret\\x1b[2J' in logged
  assert logged.count('\n') == 1


def test_metrics_count_requests_and_batches(slow, images):
  classifier, event = slow
  with (
    _serve(classifier, max_wait_ms=1000, max_batch_size=3) as client,
    futures.ThreadPoolExecutor(3) as threads,
  ):
    event.set()
    post = lambda: client.post('/predict', content=images[0], headers=_PNG)
    for future in [threads.submit(post) for _ in range(3)]:
      assert future.result().status_code == 200
    client.get('/nothing')
    metrics = client.get('/metrics').text
  for line in (
    'hq_requests_total{path="/predict",status="200"} 3.0',
    'hq_requests_total{path="other",status="404"} 1.0',
    'hq_request_seconds_count{path="/predict"} 3.0',
    'hq_batch_images_bucket{le="2.0"} 0.0',
    'hq_batch_images_bucket{le="3.0"} 1.0',
  ):
    assert line in metrics
