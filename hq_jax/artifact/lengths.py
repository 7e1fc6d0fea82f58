"""The length of a file, from what its tensors are and parts of their values."""

from collections.abc import Callable, Sequence

import numpy as np

from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib
from hq_jax.artifact import nesting
from hq_jax.artifact import slices
from hq_jax.artifact import ternary_coder


def predict(
  artifact: model_lib.Artifact,
  specs: Sequence[layout.Spec],
  get_values: Callable[[layout.Run], np.ndarray],
) -> int:
  """The bytes of a file without its streams, those of codes and of indices.

  Preamble, header and tables are exact; `byte_planes.predict_length` says when
  the rest is.

  Args:
    artifact: what the file holds; its tensors are not looked at.
    specs: of the tensors.
    get_values: the values of a run as they are stored, or some like them.

  Raises:
    ValueError: where no file holds such tensors.
  """
  model_lib.validate(artifact._replace(tensors={}, folded_norms={}))
  for spec in specs:
    model_lib.check_path(spec.path)
    layout.check_spec(spec)
  header = headers.make(artifact, specs)
  ternary = layout.ternary(header.specs)
  slices.check(ternary)
  layout.check_total(specs, layout.MAX_ELEMENTS)
  names = layout.expected_sections(header.specs)
  ancillary = [2 * len(artifact.activation_ranges)]
  if artifact.nesting is not None:
    ancillary.append(len(nesting.encode(artifact.nesting)))
  num_sections = len(names) + sum(map(bool, ancillary))
  total = container.preamble_bytes(num_sections) + sum(ancillary)
  total += len(headers.encode(header))
  total += ternary_coder.TABLE_BYTES * slices.count(ternary)
  for runs in layout.runs_by_encoding(header.specs).values():
    values = [(run.size, get_values(run)) for run in runs]
    total += byte_planes.predict_length(values)
  return total
