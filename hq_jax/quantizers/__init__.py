"""Quantizers: from latent weights to the weights that the model sees."""

from hq_jax.quantizers._base import flatten_records as flatten_records
from hq_jax.quantizers._base import identity as identity
from hq_jax.quantizers._base import Quantizer as Quantizer
from hq_jax.quantizers._binary import binary as binary
from hq_jax.quantizers._binary import BinaryState as BinaryState
from hq_jax.quantizers._ternary import ternary as ternary
from hq_jax.quantizers._ternary import TernaryState as TernaryState
from hq_jax.quantizers._twn import twn as twn
from hq_jax.quantizers._twn import TwnState as TwnState
from hq_jax.quantizers._uniform import uniform as uniform
from hq_jax.quantizers._uniform import UniformState as UniformState
from hq_jax.quantizers._vector import Codebook as Codebook
from hq_jax.quantizers._vector import vector as vector
from hq_jax.quantizers._vector import VectorState as VectorState
