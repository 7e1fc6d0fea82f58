"""Event files of TensorBoard, read without TensorBoard."""

import os
import pathlib
import struct

import pytest


def read(folder: pathlib.Path) -> list[tuple[str, int, float]]:
  """Tag, step and value of all scalars, in the order of files and records."""
  pytest.importorskip('tensorboardX')
  from tensorboardX.proto import event_pb2

  found = []
  for name in sorted(os.listdir(folder)):
    data = (folder / name).read_bytes()
    while data:
      # A record: its length, a checksum, the event, a checksum.
      (size,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      found += [
        (value.tag, event.step, value.simple_value)
        for value in event.summary.value
        if value.HasField('simple_value')
      ]
  return found
