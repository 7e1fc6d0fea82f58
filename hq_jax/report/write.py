"""Writing a report: every file whole or not at all."""

from collections.abc import Iterator
import contextlib
import json
import os
from typing import Any

from absl import logging

from hq_jax import artifact as artifact_lib
from hq_jax.report import page
from hq_jax.report import results
from hq_jax.report import run_record
from hq_jax.report import tables
from hq_jax.report import wording
from hq_jax.runtime import atomic_write

JSON = 'report.json'
MARKDOWN = 'report.md'
HTML = 'report.html'


def write(workdir: str, inputs: run_record.Inputs) -> dict[str, Any]:
  """Writes `report.json`, `report.md`, `report.html` and pictures.

  Each file takes the place of an older one in one step; `report.json` is the
  last, so that where it is, all are. Without matplotlib there are no pictures.
  """
  run_record.check_history(inputs.history)
  quantizer = wording.get_quantizer(inputs.config)
  inputs = inputs._replace(
    history=wording.clean_history(inputs.history, quantizer)
  )
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  artifact = artifact_lib.loads(data, os.fspath(inputs.file_path))
  report = results.make(inputs, data, artifact)
  contents = _draw(inputs, report, artifact)
  markdown = tables.format_markdown(report, has_pictures=bool(contents))
  contents[MARKDOWN] = markdown.encode()
  html = page.render(inputs, report, artifact.class_names)
  contents[HTML] = html.encode()
  text = json.dumps(report, indent=2, allow_nan=False) + '\n'
  contents[JSON] = text.encode()
  for name, content in contents.items():
    atomic_write.write_bytes(os.path.join(workdir, name), content)
  return report


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
  """Keeps matplotlib, while it is imported, from what a notebook has chosen.

  The pictures need none, and one that is not installed is refused.
  """
  chosen = os.environ.pop('MPLBACKEND', None)
  try:
    yield
  finally:
    if chosen is not None:
      os.environ['MPLBACKEND'] = chosen


def _draw(
  inputs: run_record.Inputs,
  report: dict[str, Any],
  artifact: artifact_lib.Artifact,
) -> dict[str, bytes]:
  """The pictures by their names; none, and a warning, without matplotlib."""
  try:
    with _without_backend():
      from hq_jax.report import figures
  except ModuleNotFoundError as error:
    if error.name != 'matplotlib':
      raise
    logging.warning(
      'the report has no pictures: they need matplotlib, pip install'
      " 'hq_jax[report]'"
    )
    return {}
  return figures.draw_all(inputs, report, artifact)
