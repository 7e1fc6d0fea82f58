"""Baselines: the quantizers that results are compared with."""

from hq_jax.baselines._binary import binary as binary
from hq_jax.baselines._binary import BinaryState as BinaryState
from hq_jax.baselines._parq import parq as parq
from hq_jax.baselines._parq import ParqState as ParqState
from hq_jax.baselines._ttq import ttq as ttq
from hq_jax.baselines._ttq import TtqState as TtqState
from hq_jax.baselines._twn import twn as twn
from hq_jax.baselines._twn import TwnState as TwnState
from hq_jax.baselines._uniform import uniform as uniform
from hq_jax.baselines._uniform import UniformState as UniformState
from hq_jax.baselines._vector import Codebook as Codebook
from hq_jax.baselines._vector import vector as vector
from hq_jax.baselines._vector import VectorState as VectorState

__all__ = [
  'BinaryState',
  'Codebook',
  'ParqState',
  'TtqState',
  'TwnState',
  'UniformState',
  'VectorState',
  'binary',
  'parq',
  'ttq',
  'twn',
  'uniform',
  'vector',
]
