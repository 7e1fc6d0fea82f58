"""The `.hq` file: one compressed model, its reader and its writer.

Nothing here imports JAX: NumPy, the standard library and `constriction` are
enough to read a model. `docs/format.md` specifies the bytes.
"""

from hq_jax.artifact.accounting import layers as layers
from hq_jax.artifact.accounting import Row as Row
from hq_jax.artifact.accounting import sizes as sizes
from hq_jax.artifact.encodings import quantize_int8 as quantize_int8
from hq_jax.artifact.folding import fold as fold
from hq_jax.artifact.layout import shape_of as shape_of
from hq_jax.artifact.model import Artifact as Artifact
from hq_jax.artifact.model import Tensor as Tensor
from hq_jax.artifact.reader import loads as loads
from hq_jax.artifact.reader import read as read
from hq_jax.artifact.variables import to_variables as to_variables
from hq_jax.artifact.writer import dumps as dumps
from hq_jax.artifact.writer import write as write

__all__ = [
  'Artifact',
  'Row',
  'Tensor',
  'dumps',
  'fold',
  'layers',
  'loads',
  'quantize_int8',
  'read',
  'shape_of',
  'sizes',
  'to_variables',
  'write',
]
