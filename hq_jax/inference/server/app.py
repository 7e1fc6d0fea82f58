"""The paths that a server answers, without sockets or signals."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent import futures
import contextlib
from importlib import metadata
import json
import pathlib
import sys
import threading
import time
import traceback
from typing import Any

import numpy as np
from starlette import applications
from starlette import exceptions
from starlette import requests
from starlette import responses
from starlette import routing
from starlette import types

from hq_jax.inference import classifier as classifier_lib
from hq_jax.inference.server import admission
from hq_jax.inference.server import batcher as batchers
from hq_jax.inference.server import bodies
from hq_jax.inference.server import metrics as metrics_lib
from hq_jax.inference.server import settings as settings_lib
from hq_jax.inference.server import v2
from hq_jax.runtime import cores
from hq_jax.runtime import terminal

_PAGE = pathlib.Path(__file__).parents[1] / 'web' / 'page'
_TOP = 5
# Images and bodies beyond these are decoded one at a time: 16 bytes a pixel
# for a transparent one, and as JSON some twenty for a byte.
_LARGE_PIXELS = 10_000_000
_LARGE_BYTES = 2_000_000
Handler = Callable[[requests.Request], Awaitable[responses.Response]]


class Server:
  """The handlers of one classifier, and what they share."""

  def __init__(
    self,
    classifier: classifier_lib.Classifier,
    name: str,
    description: Mapping[str, Any],
    settings: settings_lib.Settings,
  ):
    self._classifier = classifier
    self._name = name
    self._description = json.dumps(
      {
        'name': name,
        'engine': classifier.engine,
        'activations': classifier.activations,
        **description,
      }
    )
    self._settings = settings
    self._queue = admission.Room(settings.max_queue, 'the images')
    self._bytes = admission.Room(
      int(settings.max_pending_mb * 1e6), 'the bodies'
    )
    self._metrics = metrics_lib.Metrics(
      lambda: self._queue.used, settings.max_batch_size
    )
    self._large = threading.Lock()
    self._paths: dict[Any, str] = {}

  def make_app(self) -> types.ASGIApp:
    """Returns the application for a server of ASGI."""
    model, version = f'/v2/models/{self._name}', f'/versions/{v2.VERSION}'
    routes = [
      self._route('/predict', self._predict, 'POST'),
      self._route('/model.json', self._get_model),
      self._route('/health', self._get_health),
      self._route('/metrics', self._get_metrics),
      self._route('/v2', self._get_server),
      self._route('/v2/health/live', _answer({'live': True})),
      self._route('/v2/health/ready', _answer({'ready': True})),
    ]
    ready = _answer({'name': self._name, 'ready': True})
    described = _answer(
      v2.describe(
        self._name,
        self._classifier.engine,
        self._classifier.input_shape,
        len(self._classifier.class_names),
      )
    )
    for prefix, shown in (
      (model, '/v2/models/M'),
      (model + version, f'/v2/models/M{version}'),
    ):
      for path, handler, method in (
        ('', described, 'GET'),
        ('/ready', ready, 'GET'),
        ('/infer', self._infer, 'POST'),
      ):
        routes.append(self._route(prefix + path, handler, method, shown + path))
    for file in sorted(_PAGE.rglob('*.*')):
      path = f'/{file.relative_to(_PAGE).as_posix()}'
      routes.append(self._route(path, _send_file(file)))
      if path == '/index.html':
        routes.append(self._route('/', _send_file(file)))
    app = applications.Starlette(
      routes=routes,
      lifespan=self._lifespan,
      exception_handlers={
        exceptions.HTTPException: _answer_error,
        requests.ClientDisconnect: _answer_no_one,
        Exception: _answer_failure,
      },
    )
    return self._observe(app)

  def _route(self, path, handler, method='GET', shown=None) -> routing.Route:
    async def endpoint(request: requests.Request) -> responses.Response:
      return await handler(request)

    self._paths[endpoint] = shown or path
    return routing.Route(path, endpoint, methods=[method])

  @contextlib.asynccontextmanager
  async def _lifespan(self, _: Any) -> AsyncGenerator[None]:
    self._batcher = batchers.Batcher(
      self._classifier.apply,
      max_batch_size=self._settings.max_batch_size,
      max_wait_seconds=self._settings.max_wait_ms / 1000,
      observe=self._metrics.observe_batch,
    )
    number = self._settings.num_threads or cores.count_cores()
    with futures.ThreadPoolExecutor(number, 'decode') as self._threads:
      task = asyncio.create_task(self._batcher.run())
      yield
      task.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await task

  def _observe(self, app: types.ASGIApp) -> types.ASGIApp:
    """Counts what is answered, and reports what went wrong."""

    async def observed(scope, receive, send) -> None:
      if scope['type'] != 'http':
        return await app(scope, receive, send)
      begin, status = time.perf_counter(), 0

      async def send_on(message) -> None:
        nonlocal status
        if message['type'] == 'http.response.start':
          status = message['status']
        await send(message)

      try:
        # As long to arrive, to be answered, and to be sent.
        async with asyncio.timeout(3 * self._settings.timeout_seconds):
          await app(scope, receive, send_on)
      except Exception as error:
        _report(scope, error)
      finally:
        path = self._paths.get(scope.get('endpoint'), 'other')
        seconds = time.perf_counter() - begin
        self._metrics.observe_request(path, status, seconds)

    return observed

  async def _get_model(self, _: requests.Request) -> responses.Response:
    return responses.Response(self._description, media_type='application/json')

  async def _get_health(self, _: requests.Request) -> responses.Response:
    return responses.PlainTextResponse('ok\n')

  async def _get_metrics(self, _: requests.Request) -> responses.Response:
    headers = {'Content-Type': metrics_lib.CONTENT_TYPE}
    return responses.Response(self._metrics.format(), headers=headers)

  async def _get_server(self, _: requests.Request) -> responses.Response:
    return responses.JSONResponse(
      {
        'name': 'hq_jax',
        'version': _find_version(),
        'extensions': ['binary_tensor_data'],
      }
    )

  def _read_body(self, request: requests.Request):
    return bodies.read(
      request,
      self._bytes,
      int(self._settings.max_body_mb * 1e6),
      self._settings.timeout_seconds,
    )

  async def _predict(self, request: requests.Request) -> responses.Response:
    top = _read_top(request)
    async with self._read_body(request) as body:
      files = await bodies.split_files(request, body, self._settings.max_queue)
      names = [
        f'image {number} ({file.name!r:.80})' if file.name else 'image'
        for number, file in enumerate(files, 1)
      ]
      logits = await self._classify([file.data for file in files], names)
    results = []
    for file, row in zip(files, logits, strict=True):
      found = self._classifier.rank(row, top)
      results.append(
        {
          'image': file.name or None,
          'classes': found.classes,
          'probabilities': found.probabilities.tolist(),
        }
      )
    return responses.JSONResponse({'model': self._name, 'results': results})

  async def _infer(self, request: requests.Request) -> responses.Response:
    async with self._read_body(request) as body:
      length = request.headers.get(v2.LENGTH_HEADER)
      asked = await self._run_in_thread(self._parse, body, length)
      logits = await self._classify(asked.images)
    if not np.isfinite(logits).all():
      raise v2.refuse(f'{v2.INPUT} give logits that are not finite')
    best = np.argmax(logits, axis=1)
    values = {
      'logits': logits,
      'probabilities': classifier_lib.softmax(logits),
      'classes': [self._classifier.class_names[index] for index in best],
    }
    body, headers = v2.format_answer(asked, self._name, values)
    return responses.Response(body, headers=headers)

  def _parse(self, body: bytes, header_length: str | None) -> v2.Request:
    with self._lock_if(len(body) > _LARGE_BYTES):
      shape, most = self._classifier.input_shape, self._settings.max_queue
      return v2.parse(body, header_length, shape, most)

  async def _classify(
    self, images: list[bytes] | np.ndarray, names: list[str] | None = None
  ) -> np.ndarray:
    """The logits of images, in any of the forms of a request."""
    self._queue.take(len(images))
    try:
      async with asyncio.timeout(self._settings.timeout_seconds):
        if isinstance(images, np.ndarray) and images.dtype == np.float32:
          return await self._batcher.submit(images)
        names = names or [f'image {n}' for n in range(1, len(images) + 1)]
        rows = await asyncio.gather(
          *(
            self._run_in_thread(self._prepare, image, name)
            for image, name in zip(images, names, strict=True)
          )
        )
        return await self._batcher.submit(rows)
    except TimeoutError:
      raise exceptions.HTTPException(
        504, f'no answer within {self._settings.timeout_seconds:g} s'
      ) from None
    finally:
      self._queue.give_back(len(images))

  def _prepare(self, image: bytes | np.ndarray, name: str) -> np.ndarray:
    num_pixels = 0
    if isinstance(image, bytes):
      most = int(self._settings.max_megapixels * 1e6)
      num_pixels = bodies.count_pixels(name, image, most)
    try:
      with self._lock_if(num_pixels > _LARGE_PIXELS):
        return self._classifier.preprocess(image)[0]
    except ValueError as error:
      reason = str(error).removeprefix('image: ')
      raise exceptions.HTTPException(400, f'{name}: {reason}') from None

  def _lock_if(self, is_large: bool) -> contextlib.AbstractContextManager:
    return self._large if is_large else contextlib.nullcontext()

  async def _run_in_thread(self, function, *arguments) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._threads, function, *arguments)


def _answer(fields: Mapping[str, Any]) -> Handler:
  async def handler(_: requests.Request) -> responses.Response:
    return responses.JSONResponse(fields)

  return handler


def _find_version() -> str:
  try:
    return metadata.version('hq_jax')
  except metadata.PackageNotFoundError:
    return 'unknown'  # run from its sources


def _send_file(file: pathlib.Path) -> Handler:
  async def handler(_: requests.Request) -> responses.Response:
    return responses.FileResponse(file)

  return handler


def _read_top(request: requests.Request) -> int:
  for name in request.query_params:
    if name != 'top':
      raise exceptions.HTTPException(
        400, f'{name!r:.40} is no parameter, wanted top'
      )
  value = request.query_params.get('top', str(_TOP))
  if not (value.isascii() and value.isdigit() and int(value[:9]) > 0):
    raise exceptions.HTTPException(
      400, f'top is {value!r:.40}, wanted 1 or more'
    )
  return int(value[:9])


async def _answer_error(
  request: requests.Request, error: Any
) -> responses.Response:
  if request.scope.get('endpoint') is None:
    error.detail = f'path is {request.url.path!r:.80}, there is no such one'
  return _make_error(error.status_code, error.detail, error.headers)


async def _answer_no_one(_: requests.Request, __: Any) -> responses.Response:
  return responses.Response(status_code=499)  # For the metrics, as in nginx.


async def _answer_failure(_: requests.Request, __: Any) -> responses.Response:
  return _make_error(500, 'the server failed, its log says how')


def _make_error(status, message, headers=None) -> responses.Response:
  fields = {'error': terminal.escape(message)}
  return responses.JSONResponse(fields, status, headers)


def _report(scope: types.Scope, error: Exception) -> None:
  """One line for whoever runs the server, with the place of the failure."""
  *_, place = traceback.extract_tb(error.__traceback__)
  what = f'{scope["method"]} {scope["path"]}: {type(error).__name__}: {error}'
  line = terminal.escape(f'{what:.500} ({place.filename}:{place.lineno})')
  print(f'hq_jax: {line}', file=sys.stderr, flush=True)
