"""What a server is told, and the bounds of what it takes."""

from typing import NamedTuple


class Settings(NamedTuple):
  """The flags of `hq-jax serve`.

  Attributes:
    host: the address that is listened on.
    port: 0 for one that is free.
    name: of the model in the paths of the protocol; empty: that of the file.
    max_batch_size: images that the network takes at once.
    max_wait_ms: that an image waits for others to fill its batch.
    max_queue: images that are taken and not answered yet.
    max_body_mb: of one request.
    max_pending_mb: of the bodies of all requests that are not answered yet.
    max_megapixels: of one image.
    timeout_seconds: for a request to arrive, then for its answer, and for what
      is in flight when the server is told to stop.
    num_threads: that decode images; 0: one for each core.
  """

  host: str = '127.0.0.1'
  port: int = 8000
  name: str = ''
  max_batch_size: int = 16
  max_wait_ms: float = 2.0
  max_queue: int = 256
  max_body_mb: float = 32.0
  max_pending_mb: float = 512.0
  max_megapixels: float = 50.0
  timeout_seconds: float = 30.0
  num_threads: int = 0


# The least and the most of every number.
_BOUNDS = {
  'port': (0, 65535),
  'max_batch_size': (1, 4096),
  'max_wait_ms': (0, 10_000),
  'max_queue': (1, 1_000_000),
  'max_body_mb': (0.001, 2000),
  'max_pending_mb': (0.001, 1_000_000),
  # Pillow warns of larger images.
  'max_megapixels': (0.001, 89),
  'timeout_seconds': (0.1, 3600),
  'num_threads': (0, 1024),
}


def check(settings: Settings) -> None:
  """Refuses a number that is out of its bounds.

  >>> check(Settings(port=70000))
  Traceback (most recent call last):
  ValueError: port is 70000, wanted 0 to 65535
  """
  for field, (least, most) in _BOUNDS.items():
    value = getattr(settings, field)
    if not least <= value <= most:
      raise ValueError(f'{field} is {value}, wanted {least} to {most}')
