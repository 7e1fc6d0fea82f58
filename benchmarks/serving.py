"""A server under load, and under requests that are wrong.

  python -m benchmarks.serving [--file=FILE] [--clients=200] [--seconds=60]
      [--malformed=5000] [--engine=NAME]

Starts `hq-jax serve` on a free port of 127.0.0.1, and talks to it alone:

- clients that each keep a connection and send their next request as soon as the
  last is answered, for so many seconds: every other one image files to
  /predict, and binary tensors to the Open Inference Protocol;
- malformed requests, each on a connection of its own, in some eighty kinds;
  what is not answered with a status of 400 to 499 is counted; after every
  hundred a client leaves in the middle of its body, and a good one asks;
- at last SIGTERM, while requests are in flight.

Clients and server share the cores of the machine. Without a file it serves a
residual network for the digits of scikit-learn, 8x8, with drawn weights.

Prints, as its last line, a JSON object; `rss` is the memory of the server.
"""

import argparse
import asyncio
from collections.abc import Sequence
import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any
import urllib.request

import numpy as np

from benchmarks import malformed_requests
from hq_jax.runtime import provenance

_TIMEOUT_SECONDS = 60.0


class Connection:
  """A connection that sends the bytes of requests."""

  def __init__(self, port: int):
    self._port = port
    self._writer: asyncio.StreamWriter | None = None

  async def __aenter__(self) -> 'Connection':
    opened = await asyncio.open_connection('127.0.0.1', self._port)
    self._reader, self._writer = opened
    return self

  async def __aexit__(self, *_: Any) -> None:
    assert self._writer is not None
    self._writer.close()
    with contextlib.suppress(OSError):
      await self._writer.wait_closed()

  async def begin(self, request: bytes) -> bytes:
    """Sends all of a request but its last bytes, which it returns."""
    assert self._writer is not None
    self._writer.write(request[:-20])
    await self._writer.drain()
    return request[-20:]

  async def ask(self, request: bytes) -> tuple[int, bytes]:
    """Returns the status and the body of the answer."""
    assert self._writer is not None
    async with asyncio.timeout(_TIMEOUT_SECONDS):
      self._writer.write(request)
      head = await self._reader.readuntil(b'\r\n\r\n')
      found = re.search(rb'\r\ncontent-length: *(\d+)', head, re.IGNORECASE)
      body = await self._reader.readexactly(int(found[1])) if found else b''
    return int(head.split(maxsplit=2)[1]), body


@contextlib.contextmanager
def start(file: str, engine: str | None):
  """Runs a server; yields its process and its port."""
  command = [sys.executable, '-m', 'hq_jax', 'serve', file, '--port=0']
  command += [f'--engine={engine}'] if engine else []
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout is not None
      line = process.stdout.readline()
      found = re.match(r'http://127\.0\.0\.1:(\d+) ', line)
      if not found:
        raise RuntimeError(f'the server did not start, it said {line!r}')
      yield process, int(found[1])
    finally:
      process.kill()


def write_digits(path: str) -> None:
  """Writes a residual network for 8x8 images, with drawn weights."""
  import jax
  import jax.numpy as jnp

  from hq_jax import artifact
  from hq_jax import models
  from hq_jax.compression import to_artifact

  arguments = {'widths': [16, 32, 64], 'num_blocks': [1, 1, 1]}
  model = models.build('small_resnet', num_classes=10, arguments=arguments)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  found = to_artifact.make_artifact(
    variables,
    {},
    model='small_resnet',
    model_arguments=arguments,
    input_shape=(8, 8, 1),
    preprocessing={
      'pixel_min': 0.0,
      'pixel_max': 16.0,
      'mean': [4.5],
      'std': [6.0],
    },
    class_names=tuple('0123456789'),
  )
  artifact.write(path, found)


def make_good_requests(
  model: str, input_shape: tuple[int, ...]
) -> tuple[bytes, bytes]:
  """An image file for /predict, and a binary tensor to infer."""
  rng = np.random.default_rng(0)
  image = malformed_requests.make_image(rng)
  values = rng.normal(size=(1, *input_shape)).astype('<f4').tobytes()
  header = json.dumps(
    {
      'inputs': [
        {
          'name': 'images',
          'datatype': 'FP32',
          'shape': [1, *input_shape],
          'parameters': {'binary_data_size': len(values)},
        }
      ],
      'parameters': {'binary_data_output': True},
    }
  ).encode()
  return (
    malformed_requests.format_request(
      '/predict', image, Content_Type='image/png'
    ),
    malformed_requests.format_request(
      f'/v2/models/{model}/infer',
      header + values,
      Inference_Header_Content_Length=str(len(header)),
    ),
  )


async def load(
  port: int, requests: Sequence[bytes], num_clients: int, seconds: float
) -> dict[str, Any]:
  """Has clients ask all the time."""
  latencies: list[float] = []
  errors: list[str] = []
  end = time.perf_counter() + seconds

  async def ask(request: bytes) -> None:
    try:
      async with Connection(port) as connection:
        while time.perf_counter() < end:
          begin = time.perf_counter()
          status, body = await connection.ask(request)
          latencies.append(time.perf_counter() - begin)
          if status != 200:
            errors.append(f'{status} {body[:200]!r}')
    except (OSError, EOFError) as error:  # TimeoutError is an OSError
      errors.append(f'{type(error).__name__}: {error}')

  begin = time.perf_counter()
  shared = itertools.islice(itertools.cycle(requests), num_clients)
  await asyncio.gather(*map(ask, shared))
  taken = time.perf_counter() - begin
  return {
    'requests': len(latencies),
    'requests_per_second': round(len(latencies) / taken, 1),
    'p50_ms': _percentile_ms(latencies, 0.5),
    'p99_ms': _percentile_ms(latencies, 0.99),
    'errors': len(errors),
    'first_errors': errors[:3],
  }


async def send_malformed(
  port: int,
  model: str,
  input_shape: tuple[int, ...],
  number: int,
  good: bytes,
  num_clients: int = 16,
) -> dict[str, Any]:
  """Sends malformed requests, and good ones in between."""
  wrong: list[str] = []
  statuses: dict[int, int] = {}
  unanswered = 0
  made = malformed_requests.make_requests(model, input_shape, seed=0)
  queue = enumerate(itertools.islice(made, number), 1)

  async def send() -> None:
    nonlocal unanswered
    for index, (kind, request) in queue:
      try:
        async with Connection(port) as connection:
          status, body = await connection.ask(request)
        is_error = isinstance(json.loads(body).get('error'), str)
      except (OSError, EOFError, ValueError) as error:
        status, body, is_error = 0, repr(error).encode(), False
      statuses[status] = statuses.get(status, 0) + 1
      if not (400 <= status < 500 and is_error):
        wrong.append(f'{kind}: {status} {body[:200]!r}')
      if index % 100 == 0:
        await _leave(port, good)
        async with Connection(port) as connection:
          status, _ = await connection.ask(good)
        unanswered += status != 200

  begin = time.perf_counter()
  await asyncio.gather(*(send() for _ in range(num_clients)))
  return {
    'malformed': number,
    'malformed_without_4xx': len(wrong),
    'first_without_4xx': wrong[:3],
    'malformed_statuses': dict(sorted(statuses.items())),
    'malformed_seconds': round(time.perf_counter() - begin, 1),
    'good_unanswered': unanswered,
  }


async def stop(
  process: subprocess.Popen, port: int, requests: Sequence[bytes]
) -> dict[str, Any]:
  """Sends SIGTERM while requests are in flight."""
  rests = []
  async with contextlib.AsyncExitStack() as stack:
    for request in itertools.islice(itertools.cycle(requests), 20):
      connection = await stack.enter_async_context(Connection(port))
      rests.append((connection, await connection.begin(request)))
    # Once a later one is answered, the server has read what these have sent.
    async with Connection(port) as later:
      await later.ask(requests[0])
    process.send_signal(signal.SIGTERM)
    begin = time.perf_counter()
    answers = await asyncio.gather(
      *(connection.ask(rest) for connection, rest in rests),
      return_exceptions=True,
    )
  status = await asyncio.to_thread(process.wait, _TIMEOUT_SECONDS)
  return {
    'exit_status': status,
    'seconds_to_exit': round(time.perf_counter() - begin, 2),
    'in_flight_answered': sum(
      not isinstance(answer, BaseException) and answer[0] == 200
      for answer in answers
    ),
  }


async def _leave(port: int, request: bytes) -> None:
  async with Connection(port) as connection:
    await connection.begin(request)


async def _watch(pid: int, found: list[float]) -> None:
  while True:
    found.append(read_rss_mb(pid))
    await asyncio.sleep(1)


def read_rss_mb(pid: int) -> float:
  """The resident memory of a process, in MB."""
  pages = int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1])
  return round(pages * os.sysconf('SC_PAGE_SIZE') / 1e6, 1)


def _percentile_ms(seconds: Sequence[float], fraction: float) -> float:
  ordered = sorted(seconds)
  if not ordered:
    return math.nan
  return round(1000 * ordered[int(fraction * (len(ordered) - 1))], 2)


async def measure(
  process: subprocess.Popen,
  port: int,
  *,
  num_clients: int,
  seconds: float,
  num_malformed: int,
) -> dict[str, Any]:
  """Runs all three parts on a server."""
  url = f'http://127.0.0.1:{port}/model.json'
  described = await asyncio.to_thread(
    lambda: json.load(urllib.request.urlopen(url))
  )
  model, shape = described['name'], tuple(described['input_shape'])
  good = make_good_requests(model, shape)
  await load(port, good, num_clients, 0.05 * seconds)
  rss: list[float] = []
  watch = asyncio.create_task(_watch(process.pid, rss))
  found = await load(port, good, num_clients, seconds)
  found['rss_mb_every_tenth'] = [
    rss[int(i * (len(rss) - 1) / 9)] for i in range(10)
  ]
  found |= await send_malformed(port, model, shape, num_malformed, good[0])
  rss.append(read_rss_mb(process.pid))
  watch.cancel()
  found |= {
    'rss_mb_start': rss[0],
    'rss_mb_end': rss[-1],
    'rss_mb_peak': max(rss),
    'engine': described['engine'],
    'file_bytes': described['file_bytes'],
    'input_shape': list(shape),
  }
  return found | await stop(process, port, good)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Runs the benchmark; returns what it prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--file', default='')
  parser.add_argument('--engine')
  parser.add_argument('--clients', type=int, default=200)
  parser.add_argument('--seconds', type=float, default=60)
  parser.add_argument('--malformed', type=int, default=5000)
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    file = arguments.file
    if not file:
      file = f'{folder}/digits.hq'
      write_digits(file)
    with start(file, arguments.engine) as (process, port):
      found = asyncio.run(
        measure(
          process,
          port,
          num_clients=arguments.clients,
          seconds=arguments.seconds,
          num_malformed=arguments.malformed,
        )
      )
  found = {
    'clients': arguments.clients,
    'seconds': arguments.seconds,
    **found,
    'cores': os.cpu_count(),
    'commit': provenance.get_commit(),
    'hardware': provenance.get_hardware(),
  }
  print(json.dumps(found))
  return found


if __name__ == '__main__':
  main()
