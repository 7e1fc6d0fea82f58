"""What a server counts, for Prometheus."""

from collections.abc import Callable

import prometheus_client

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Metrics:
  """The numbers of one server, in a registry of its own."""

  def __init__(self, get_queue_length: Callable[[], int], max_batch_size: int):
    self._registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=self._registry)
    self._requests = prometheus_client.Counter(
      'hq_requests',
      'Requests by path and status.',
      ['path', 'status'],
      registry=self._registry,
    )
    self._seconds = prometheus_client.Histogram(
      'hq_request_seconds',
      'From the first byte of a request to the end of its answer.',
      ['path'],
      registry=self._registry,
    )
    self._batches = prometheus_client.Histogram(
      'hq_batch_images',
      'Images that the network took at once.',
      buckets=[n for n in (1, 2, 4, 8, 16, 32, 64) if n < max_batch_size]
      + [max_batch_size],
      registry=self._registry,
    )
    waiting = prometheus_client.Gauge(
      'hq_queue_images',
      'Images that are taken and not answered yet.',
      registry=self._registry,
    )
    waiting.set_function(get_queue_length)

  def observe_request(self, path: str, status: int, seconds: float) -> None:
    """Counts a request that was answered."""
    self._requests.labels(path, status).inc()
    self._seconds.labels(path).observe(seconds)

  def observe_batch(self, size: int) -> None:
    """Counts a batch."""
    self._batches.observe(size)

  def format(self) -> bytes:
    """The text that Prometheus reads."""
    return prometheus_client.generate_latest(self._registry)
