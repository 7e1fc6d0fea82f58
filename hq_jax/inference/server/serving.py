"""The process of a server: its socket, its signals, and its one line."""

from collections.abc import Callable, Generator, Sequence
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import signal
import socket
import sys
from typing import Any
import warnings

import numpy as np
from PIL import Image
import uvicorn

from hq_jax.artifact import inspect
from hq_jax.inference import classifier as classifier_lib
from hq_jax.inference.server import app as app_lib
from hq_jax.inference.server import http
from hq_jax.inference.server import settings as settings_lib
from hq_jax.runtime import terminal

# Each has a file descriptor, of which a process may have 1024 by default.
_MAX_CONNECTIONS = 900
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
  path: str,
  settings: settings_lib.Settings,
  *,
  engine: str | None = None,
  activations: str | None = None,
) -> int:
  """Serves a file until a signal, and returns the exit status: 0.

  Raises:
    OSError: no such file; the address is taken, or is none of this machine.
    ValueError: no good file, an unknown engine, a setting out of bounds.
  """
  settings_lib.check(settings)
  name = settings.name or pathlib.Path(path).stem
  if set(name) & set('{}/'):
    raise ValueError(f'name is {name!r}, wanted one without {{, }} and /')
  with _on_signals(_leave), _listen(settings.host, settings.port) as listener:
    classifier = _warm_up(
      classifier_lib.load(path, engine=engine, activations=activations),
      settings.max_batch_size,
    )
    description = inspect.describe_file(path)
    server = app_lib.Server(
      classifier,
      name,
      description | {'file': os.path.basename(path)},
      settings,
    )
    # It would say a line about each malformed body.
    logging.getLogger('python_multipart').setLevel(logging.ERROR)
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    line = (
      f'{format_url(listener)} serves {path}:'
      f' {description["file_bytes"]:,} bytes,'
      f' {len(classifier.class_names):,} classes, engine {classifier.engine}'
      f' with {classifier.activations} activations; Ctrl-C ends it'
    )
    # What it raises again in the end does nothing.
    with _on_signals(lambda *_: None):
      Uvicorn(server.make_app(), settings, line).run([listener])
  return 0


def _leave(*_: Any) -> None:
  sys.exit(0)


@contextlib.contextmanager
def _on_signals(handler: Callable[..., None]) -> Generator[None]:
  before = {each: signal.signal(each, handler) for each in _SIGNALS}
  try:
    yield
  finally:
    for each, earlier in before.items():
      signal.signal(each, earlier)


def _listen(host: str, port: int) -> socket.socket:
  try:
    family, _, _, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=1024)
  except OSError as error:
    raise OSError(
      f'host is {host!r} and port is {port}:'
      f' {error.strerror or error}, wanted an address that is free'
    ) from None


def _warm_up(
  classifier: classifier_lib.Classifier, max_batch_size: int
) -> classifier_lib.Classifier:
  """Has the network seen every size of a batch that it will be given."""
  sizes = [1, max_batch_size]
  if classifier.engine == 'jax':  # which compiles for each
    sizes = [1 << bit for bit in range(max_batch_size.bit_length())]
    sizes = sorted({*sizes, max_batch_size})
    classifier = dataclasses.replace(
      classifier, apply=_pad_to(sizes, classifier.apply)
    )
  for size in sizes:
    classifier.apply(np.zeros((size, *classifier.input_shape), np.float32))
  return classifier


def _pad_to(
  sizes: Sequence[int], apply: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
  def padded(images: np.ndarray) -> np.ndarray:
    size = next(size for size in sizes if size >= len(images))
    rest = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
    return apply(np.concatenate([images, rest]))[: len(images)]

  return padded


def format_url(listener: socket.socket) -> str:
  """The address of a socket that listens."""
  host, port = listener.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


class Uvicorn(uvicorn.Server):
  """Says a line once it answers; SIGINT and SIGTERM end it."""

  def __init__(self, app: Any, settings: settings_lib.Settings, line: str):
    protocol = functools.partial(
      http.Protocol,
      max_connections=_MAX_CONNECTIONS,
      timeout_seconds=settings.timeout_seconds,
    )
    config = uvicorn.Config(
      app,
      http=protocol,  # type: ignore[arg-type]
      ws='none',
      loop='asyncio',
      lifespan='on',
      log_config=None,
      log_level='error',
      access_log=False,
      server_header=False,
      proxy_headers=False,
      backlog=1024,
      timeout_graceful_shutdown=int(settings.timeout_seconds) + 1,
    )
    super().__init__(config)
    self._line = line

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    """Starts, then says so."""
    await super().startup(sockets)
    terminal.show(self._line)
