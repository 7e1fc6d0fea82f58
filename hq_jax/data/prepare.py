"""Preparation of data sets by TFDS."""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import pathlib
import sys
import tempfile

import tensorflow_datasets as tfds

from hq_jax.data.sets import generated
from hq_jax.data.tfds import builders
from hq_jax.data.tfds import downloads
from hq_jax.data.tfds import errors as tfds_errors
from hq_jax.data.tfds import lookup

# Asked for sets that do not say where they are downloaded from.
_ANY_URL = 'https://storage.googleapis.com'


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
  """
  root = lookup.get_root(data_dir)
  if name in generated.SPECS:
    generated.prepare(name, generated.SPECS[name], root)
  folder = lookup.find(name, root)
  if folder is None:
    folder = _prepare(name, root, manual_dir, show_progress)
  builders.open_builder(folder)
  return folder


def prepare_and_describe(
  name: str,
  data_dir: str | None,
  manual_dir: str | None,
  *,
  show_progress: bool,
) -> str:
  """Prepares a data set, unless it is prepared; says where it is."""
  found = lookup.find(name, lookup.get_root(data_dir))
  folder = prepare(name, data_dir, manual_dir, show_progress=show_progress)
  splits = builders.open_builder(folder).info.splits
  sizes = ', '.join(f'{k} {v.num_examples:,}' for k, v in splits.items())
  state = 'is prepared already' if found else 'is prepared'
  return f'{name} {state} in {folder}: {sizes}'


def _prepare(
  name: str,
  root: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
  show_progress: bool,
) -> pathlib.Path:
  """Has TFDS prepare a set that is not there; returns its folder."""
  with _only_if(show_progress):
    builder = builders.make_builder(name, root)
    builders.find_keys(builder.info)
    folder = pathlib.Path(builder.data_dir)
    if lookup.is_complete(folder):
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
    downloads.check_manual(builder, manual)
    is_of_tfds = type(builder).__module__.startswith('tensorflow_datasets.')
    # Found out now, and not when all is downloaded: whatever TFDS unpacks, it
    # unpacks by TensorFlow.
    if is_of_tfds and importlib.util.find_spec('tensorflow') is None:
      raise tfds_errors.no_tensorflow(name)
    downloads.check_network(
      builder, root, manual, [_ANY_URL] if is_of_tfds else []
    )
    with tempfile.TemporaryDirectory(prefix='hq_jax_') as restored:
      config = tfds.download.DownloadConfig(
        manual_dir=downloads.restore_headers(
          builder, manual, pathlib.Path(restored)
        ),
        try_download_gcs=False,
      )
      try:
        builders.write(builder, config)
      except Exception as error:  # TFDS raises most kinds of it.
        raise tfds_errors.explain(name, 'cannot be prepared', error) from error
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
