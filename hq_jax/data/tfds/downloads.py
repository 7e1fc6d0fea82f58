"""Checks that what a TFDS set is made from is there or can be downloaded."""

from collections.abc import Sequence
import hashlib
import pathlib
import posixpath
import queue
import re
import struct
import threading
from urllib import parse

import requests
import tensorflow_datasets as tfds

# Whose files nobody may pass on: what, and where it is.
_MANUAL = {
  'imagenet2012': (
    ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
    'https://image-net.org/download-images',
  ),
}
# When files were packed whose names and times Debian's packages leave out.
_GZIP_TIMES = {
  'train-images-idx3-ubyte.gz': 1504176606,
  'train-labels-idx1-ubyte.gz': 1504176606,
  't10k-images-idx3-ubyte.gz': 1504176627,
  't10k-labels-idx1-ubyte.gz': 1504176627,
}
_STRIPPED_HEADER = re.compile(rb'\x1f\x8b\x08\0....\0\x03', re.DOTALL)
_PROBE_SECONDS = 5.0
_MAX_HOSTS = 8


def check_manual(
  builder: tfds.core.DatasetBuilder, manual: pathlib.Path
) -> None:
  """Refuses a set some of whose files are not where they should be."""
  instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if not instructions:
    return
  files, url = _MANUAL.get(builder.name, ((), ''))
  missing = [file for file in files if not (manual / file).is_file()]
  if missing:
    raise ValueError(
      f'{builder.name} needs {" and ".join(missing)}, wanted in the folder'
      f' {str(manual)!r} (or that of --manual_dir): you get them, with an'
      f' account, from {url}'
    )
  if not manual.is_dir() or not any(manual.iterdir()):
    raise ValueError(
      f'{builder.name} needs files that are downloaded by hand, and the folder'
      f' {str(manual)!r} (or that of --manual_dir) is empty:'
      f' {" ".join(instructions.split())}'
    )


def restore_headers(
  builder: tfds.core.DatasetBuilder,
  manual: pathlib.Path,
  folder: pathlib.Path,
) -> pathlib.Path:
  """Gives gzip files of a Debian package the headers of those that TFDS knows.

  Returns `folder`, where they are then, with links to the others; or `manual`,
  if there is nothing to restore.
  """
  is_restored = False
  for url, info in (builder.url_infos or {}).items():
    name = _get_name(url, info)
    if not (manual / name).is_file():
      continue
    (folder / name).symlink_to((manual / name).absolute())
    if name not in _GZIP_TIMES:
      continue
    data = (manual / name).read_bytes()
    if not _STRIPPED_HEADER.match(data):
      continue
    seconds = struct.pack('<I', _GZIP_TIMES[name])
    packed = name.removesuffix('.gz').encode()
    restored = b'\x1f\x8b\x08\x08%b\0\x03%b\0' % (seconds, packed) + data[10:]
    if hashlib.sha256(restored).hexdigest() == info.checksum:
      (folder / name).unlink()
      (folder / name).write_bytes(restored)
      is_restored = True
  return folder if is_restored else manual


def check_network(
  builder: tfds.core.DatasetBuilder,
  root: pathlib.Path,
  manual: pathlib.Path,
  default_urls: list[str],
) -> None:
  """Refuses a set that has to be downloaded where nothing can be.

  TFDS tries for minutes. It may know more addresses than this config of the set
  needs, so that there is a doubt, and no refusal, where one host answers, or
  one file is there already.
  """
  infos = builder.url_infos or {}
  if not infos and builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    return
  downloads = root / 'downloads'
  get_name = tfds.download.resource.get_dl_fname
  for url, info in infos.items():
    file = _get_name(url, info)
    cached = get_name(url, info.checksum)
    places = (manual / file, downloads / cached)
    if any(
      path.is_file() for path in (*places, downloads / builder.name / cached)
    ):
      return
  by_host = {parse.urlsplit(url).hostname: url for url in infos or default_urls}
  hosts = dict(list(by_host.items())[:_MAX_HOSTS])
  failure = _probe(list(hosts.values()))
  if failure is not None:
    raise ValueError(
      f'{builder.name} has to be downloaded, and {", ".join(map(str, hosts))}'
      f' cannot be reached ({failure}): is there a network, or a proxy, which'
      ' HTTPS_PROXY shall name? (Or put its files into --manual_dir.)'
    )


def _get_name(url: str, info: tfds.download.checksums.UrlInfo) -> str:
  """How a downloaded file is called."""
  return info.filename or posixpath.basename(parse.urlsplit(url).path)


def _probe(urls: Sequence[str]) -> str | None:
  """Returns None if a host answers, whatever it says, and else why none does.

  Looking up a name has no time limit of its own, hence the threads: those that
  are still waiting are left behind.
  """
  answers: queue.Queue[str | None] = queue.Queue()

  def ask(url: str) -> None:
    try:
      # The library that TFDS downloads with: the same proxies, certificates.
      requests.head(url, timeout=_PROBE_SECONDS).close()
      answers.put(None)
    except requests.exceptions.InvalidSchema:
      answers.put(None)  # Not of the web, such as ftp: TFDS may try.
    except requests.RequestException as error:
      answers.put(type(error).__name__)

  for url in urls:
    threading.Thread(target=ask, args=(url,), daemon=True).start()
  failure: str | None = None
  for _ in urls:
    try:
      failure = answers.get(timeout=2 * _PROBE_SECONDS)
    except queue.Empty:
      return f'no answer in {2 * _PROBE_SECONDS:.0f} seconds'
    if failure is None:
      return None
  return failure
