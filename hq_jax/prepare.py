"""Prepares a data set of TFDS: `python -m hq_jax.prepare cifar10`."""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import difflib
import importlib.util
import os
import pathlib
import posixpath
import queue
import sys
import threading
from urllib import parse

import requests
import tensorflow_datasets as tfds

from hq_jax.data import generated
from hq_jax.data import prepared

_DESCRIPTION = """\
Downloads a data set of TFDS and writes it as files that training reads without
TensorFlow and without a network.

  NAME  such as cifar10, imagenet_resized/16x16 or cifar10:3.0.2; any set that
        has one image and one label, see
        https://www.tensorflow.org/datasets/catalog"""
_EPILOG = """\
A process that is killed leaves a folder incomplete.* behind, which may be
deleted. Exit status: 0, also where the set is prepared already; 2 and one line
on stderr where it cannot be prepared; TensorFlow adds lines of its own."""

_NO_TENSORFLOW = (
  'needs TensorFlow to be prepared: pip install "hq_jax[prepare]" (training'
  ' does not need it)'
)
# Whose files nobody may pass on: what, and where it is.
_MANUAL = {
  'imagenet2012': (
    ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'),
    'https://image-net.org/download-images',
  ),
}
# Asked for sets that do not say where they are downloaded from.
_ANY_URL = 'https://storage.googleapis.com'
_PROBE_SECONDS = 5.0
_MAX_HOSTS = 8


def prepare(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
  *,
  show_progress: bool = False,
) -> pathlib.Path:
  """Prepares a data set, unless it is prepared already.

  TFDS writes to a folder `incomplete.*` and renames it at the end: what was
  interrupted is not taken for prepared.

  Args:
    name: 'name' or 'name/config' of TFDS, either of them with ':version'.
    data_dir: the folder that holds the data sets; None means the environment's
      TFDS_DATA_DIR, or `~/tensorflow_datasets` without one.
    manual_dir: the folder of what was downloaded by hand; None means
      `downloads/manual` in `data_dir`. What TFDS would download is taken from
      there, too.
    show_progress: whether TFDS may write to stderr what it does.

  Returns:
    The folder of the prepared version.

  Raises:
    ValueError: TFDS does not know the set, cannot prepare it, or it is no image
      classification set; the last is found before anything is downloaded. Or
      it is prepared in a way that cannot be read.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   prepare('digits', data_dir).relative_to(data_dir).as_posix()
  'digits/1.0.0'
  """
  root = _get_root(data_dir)
  if root.exists() and not root.is_dir():
    raise ValueError(f'data_dir: {str(root)!r} is a file, not a folder')
  if name in generated.SPECS:
    generated.open_splits(name, root, memory_limit_bytes=0)
  folder = prepared.find(name, root)
  if folder is None:
    folder = _prepare(name, root, manual_dir, show_progress)
  prepared.open_builder(folder)
  return folder


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: the arguments, without the program's name.

  Returns:
    The exit status.

  >>> main(['--help'])  # doctest: +ELLIPSIS
  usage: python -m hq_jax.prepare [-h] [--data_dir=DIR] [--manual_dir=DIR] NAME
  ...
  0
  """
  parser = _make_parser()
  try:
    arguments = _parse(parser, argv)
    if arguments.help:
      print(parser.format_help().rstrip())
      return 0
    found = prepared.find(arguments.name, _get_root(arguments.data_dir))
    folder = prepare(
      arguments.name,
      arguments.data_dir,
      arguments.manual_dir,
      show_progress=sys.stderr is not None and sys.stderr.isatty(),
    )
  except (argparse.ArgumentError, OSError, ValueError) as error:
    # What TFDS says may have several lines.
    print(f'hq_jax: {" ".join(str(error).split())}', file=sys.stderr)
    return 2
  splits = prepared.open_builder(folder).info.splits
  sizes = ', '.join(f'{k} {v.num_examples:,}' for k, v in splits.items())
  state = 'is prepared already' if found else 'is prepared'
  print(f'{arguments.name} {state} in {folder}: {sizes}')
  return 0


def _make_parser() -> argparse.ArgumentParser:
  # Whatever argparse would print itself is left to `main`: one line.
  parser = argparse.ArgumentParser(
    usage=(
      'python -m hq_jax.prepare [-h] [--data_dir=DIR] [--manual_dir=DIR] NAME'
    ),
    description=_DESCRIPTION,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    add_help=False,
    allow_abbrev=False,
    exit_on_error=False,
  )
  parser.add_argument('name', metavar='NAME', nargs='?', help='see above')
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help='holds the data sets; default: TFDS_DATA_DIR, ~/tensorflow_datasets',
  )
  parser.add_argument(
    '--manual_dir',
    metavar='DIR',
    help='holds what was downloaded by hand; default: downloads/manual there',
  )
  parser.add_argument(
    '-h', '--help', action='store_true', help='this text, and nothing else'
  )
  return parser


def _parse(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
  arguments, unknown = parser.parse_known_args(argv)
  if unknown and not arguments.help:
    raise ValueError(f'argument {unknown[0]!r} is not known')
  if arguments.name is None and not arguments.help:
    raise ValueError('NAME is missing, --help tells more')
  return arguments


def _get_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  return pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()


def _prepare(
  name: str,
  root: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
  show_progress: bool,
) -> pathlib.Path:
  """Has TFDS prepare a set that is not there; returns its folder."""
  with _only_if(show_progress):
    builder = _make_builder(name, root)
    prepared.find_keys(builder.info)
    folder = pathlib.Path(builder.data_dir)
    if prepared.is_complete(folder):
      # Of the default config, and what says which one that is has been lost.
      raise ValueError(
        f'{name} is prepared in {str(folder)!r}: call it'
        f' {"/".join(folder.relative_to(root).parts[:-1])}'
      )
    if folder.exists():
      # TFDS would take it for prepared.
      raise ValueError(
        f'data_dir: {str(folder)!r} is incomplete: delete that folder'
      )
    manual = pathlib.Path(manual_dir or root / 'downloads' / 'manual')
    if manual_dir is not None and not manual.is_dir():
      raise ValueError(f'manual_dir: {str(manual)!r} is no folder')
    _check_manual(builder, manual)
    is_of_tfds = type(builder).__module__.startswith('tensorflow_datasets.')
    # Found out now, and not when all is downloaded: whatever TFDS unpacks, it
    # unpacks by TensorFlow.
    if is_of_tfds and importlib.util.find_spec('tensorflow') is None:
      raise ValueError(f'{name} {_NO_TENSORFLOW}')
    _check_network(builder, root, manual, [_ANY_URL] if is_of_tfds else [])
    config = tfds.download.DownloadConfig(
      manual_dir=manual, try_download_gcs=False
    )
    try:
      builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS raises most kinds of it.
      # Another process may have been the first to put its folder there.
      if not prepared.is_complete(folder):
        raise _explain(name, 'cannot be prepared', error) from error
  return folder


@contextlib.contextmanager
def _only_if(show_progress: bool) -> Iterator[None]:
  """Sends what TFDS prints to stderr, or nowhere."""
  if show_progress:
    with contextlib.redirect_stdout(sys.stderr):
      yield
    return
  with (
    open(os.devnull, 'w', encoding='utf-8') as nowhere,
    contextlib.redirect_stdout(nowhere),
    contextlib.redirect_stderr(nowhere),
  ):
    yield


def _make_builder(name: str, root: pathlib.Path) -> tfds.core.DatasetBuilder:
  dataset, config, version = prepared.parse_name(name)
  try:
    # What `tfds.builder` does at the end, after it has looked elsewhere.
    builder_class = tfds.builder_cls(dataset)
    configs = builder_class.builder_configs
    if config is None or config in configs:
      return builder_class(
        data_dir=root,
        config=config,
        version=version,
        file_format='array_record',
      )
  except tfds.core.DatasetNotFoundError as error:
    names = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(dataset, names)
    but = f', but {", ".join(near)}' if near else ''
    raise ValueError(f'name: TFDS has no data set {dataset!r}{but}') from error
  except Exception as error:  # TFDS raises most kinds of it.
    raise _explain(name, 'cannot be opened by TFDS', error) from error
  wanted = f'one of {", ".join(configs)}' if configs else 'none'
  raise ValueError(f'name: {dataset} has no config {config!r}, wanted {wanted}')


def _explain(name: str, what: str, error: BaseException) -> ValueError:
  """Says why TFDS failed; a missing package has a remedy."""
  # TFDS raises an error again with its own words in front.
  while error.__cause__ is not None:
    error = error.__cause__
  if isinstance(error, ModuleNotFoundError):
    if error.name == 'tensorflow':
      return ValueError(f'{name} {_NO_TENSORFLOW}')
    return ValueError(f'{name} needs the Python package {error.name!r}')
  return ValueError(f'{name} {what} ({prepared.first_line(error)})')


def _check_manual(
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


def _check_network(
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
    file = info.filename or posixpath.basename(parse.urlsplit(url).path)
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


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
