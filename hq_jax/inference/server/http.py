"""The HTTP of uvicorn, with bounds on connections and JSON for every error."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http import h11_impl


class Protocol(h11_impl.H11Protocol):
  """A connection.

  It is refused beyond `max_connections`, and closed once it has been open for
  `timeout_seconds` without a request that is being answered: a client that
  sends a header byte by byte would hold it forever.
  """

  def __init__(
    self,
    *args: Any,
    max_connections: int,
    timeout_seconds: float,
    **kwargs: Any,
  ):
    super().__init__(*args, **kwargs)
    self._max_connections = max_connections
    self._timeout_seconds = timeout_seconds
    self._timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport: Any) -> None:
    """Counts the connection, and watches it."""
    super().connection_made(transport)
    if len(self.connections) > self._max_connections:
      body = _format_error('too many connections, come again')
      transport.write(
        b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n'
        b'Content-Type: application/json\r\nConnection: close\r\n'
        b'Content-Length: %d\r\n\r\n%b' % (len(body), body)
      )
      transport.close()
    self._watch()

  def connection_lost(self, exc: Exception | None) -> None:
    """Lets go of the timer."""
    super().connection_lost(exc)
    if self._timer:
      self._timer.cancel()

  def send_400_response(self, msg: str) -> None:
    """Answers what is no HTTP."""
    body = _format_error(msg)
    self.transport.write(
      b'HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n'
      b'Connection: close\r\nContent-Length: %d\r\n\r\n%b' % (len(body), body)
    )
    self.transport.close()

  def _watch(self) -> None:
    self._timer = self.loop.call_later(
      self._timeout_seconds, self._check, self.cycle
    )

  def _check(self, before: Any) -> None:
    is_answering = self.cycle is not None and not self.cycle.response_complete
    if self.transport.is_closing():
      self.transport.abort()  # The client does not read what is left.
    elif before is self.cycle and not is_answering:
      self.transport.close()
    self._watch()


def _format_error(message: str) -> bytes:
  return json.dumps({'error': message}).encode()
