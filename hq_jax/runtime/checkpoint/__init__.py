"""Checkpoints of the state and of the place in the data, by Orbax.

Orbax notices no damage. So each step holds fingerprints of what is in it, and a
step that does not match its own is set aside for the one before.
"""

from hq_jax.runtime.checkpoint.manager import Checkpoints as Checkpoints
from hq_jax.runtime.checkpoint.orbax_io import silence_orbax as silence_orbax
from hq_jax.runtime.checkpoint.weights import find_newest as find_newest
from hq_jax.runtime.checkpoint.weights import open_step as open_step
from hq_jax.runtime.checkpoint.weights import read_arrays as read_arrays
