"""The bodies of requests: read within bounds, and split into files."""

import asyncio
from collections.abc import AsyncGenerator
import contextlib
import io
from typing import NamedTuple

from PIL import Image
from PIL import UnidentifiedImageError
from starlette import exceptions
from starlette import formparsers
from starlette import requests

from hq_jax.inference.server import admission

_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP')
# After these, who still sends is cut off instead of told why.
_DRAIN_SECONDS = 5.0
_DRAIN_FACTOR = 4
_CLOSE = {'Connection': 'close'}


class File(NamedTuple):
  """An image file of a request; `name` is '' where it was given none."""

  name: str
  data: bytes


@contextlib.asynccontextmanager
async def read(
  request: requests.Request,
  room: admission.Room,
  max_bytes: int,
  timeout_seconds: float,
) -> AsyncGenerator[bytes]:
  """Reads a body and keeps its place in `room` until the block ends.

  Its bytes are counted as they come, whatever Content-Length says.
  """
  encoding = request.headers.get('content-encoding', 'identity')
  if encoding != 'identity':
    raise exceptions.HTTPException(
      415, f'Content-Encoding is {encoding!r:.40}, wanted none', _CLOSE
    )
  taken = 0
  chunks: list[bytes] = []
  try:
    try:
      async with asyncio.timeout(timeout_seconds):
        if _declared(request) > max_bytes:
          await _refuse_large(request, max_bytes)
        async for chunk in request.stream():
          if taken + len(chunk) > max_bytes:
            chunks.clear()
            await _refuse_large(request, max_bytes)
          room.take(len(chunk))
          taken += len(chunk)
          chunks.append(chunk)
    except TimeoutError:
      raise exceptions.HTTPException(
        408, f'the body took more than {timeout_seconds:g} s to come', _CLOSE
      ) from None
    body = b''.join(chunks)
    chunks.clear()
    yield body
  finally:
    room.give_back(taken)


def _declared(request: requests.Request) -> int:
  length = request.headers.get('content-length', '0')
  return int(length) if length.isascii() and length.isdigit() else 0


async def _refuse_large(request: requests.Request, max_bytes: int) -> None:
  """Reads on for a while, since most clients send all before they listen."""
  left, headers = _DRAIN_FACTOR * max_bytes, _CLOSE
  if 'expect' not in request.headers and _declared(request) <= left:
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_DRAIN_SECONDS):
        while left > 0:
          message = await request.receive()
          left -= len(message.get('body', b''))
          if not message.get('more_body', False):
            headers = {}
            break
  raise exceptions.HTTPException(
    413, f'the body is larger than {max_bytes:,} bytes', headers
  )


async def split_files(
  request: requests.Request, body: bytes, max_files: int
) -> list[File]:
  """The image files of a body, by its Content-Type."""
  kind = request.headers.get('content-type', 'application/octet-stream')
  essence = kind.partition(';')[0].strip().lower()
  if essence.startswith('image/') or essence == 'application/octet-stream':
    if not body:
      raise exceptions.HTTPException(400, 'the body is empty, wanted an image')
    return [File('', body)]
  if essence != 'multipart/form-data':
    raise exceptions.HTTPException(
      415,
      f'Content-Type is {kind!r:.80}, wanted image/*,'
      ' application/octet-stream or multipart/form-data',
    )

  async def stream() -> AsyncGenerator[bytes]:
    yield body

  parser = formparsers.MultiPartParser(
    request.headers, stream(), max_files=max_files, max_fields=0
  )
  parser.spool_max_size = len(body) + 1  # never on the disk
  try:
    form = await parser.parse()
  except formparsers.MultiPartException as error:
    raise exceptions.HTTPException(
      400, f'multipart body: {error.message}'
    ) from None
  files = []
  for _, item in form.multi_items():
    assert not isinstance(item, str)  # `max_fields` is 0.
    files.append(File(item.filename or '', await item.read()))
    await item.close()
  if not files:
    raise exceptions.HTTPException(400, 'multipart body: no file is in it')
  return files


def count_pixels(what: str, data: bytes, max_pixels: int) -> int:
  """Reads the header alone; refuses what is no image, or too large a one."""
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
      width, height = file.size
  except UnidentifiedImageError:
    raise exceptions.HTTPException(
      400, f'{what} is no image, wanted a JPEG, PNG, GIF, BMP or WebP file'
    ) from None
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise exceptions.HTTPException(
      413, f'{what} has too many pixels, wanted {max_pixels:,} at most'
    ) from None
  except MemoryError:
    raise
  except Exception:  # Broken files make Pillow raise nearly anything.
    raise exceptions.HTTPException(
      400, f'{what} is broken, wanted a whole image'
    ) from None
  if width * height > max_pixels:
    raise exceptions.HTTPException(
      413, f'{what} is {width}x{height}, wanted {max_pixels:,} pixels at most'
    )
  return width * height
