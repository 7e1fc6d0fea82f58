"""Logits by onnxruntime, on a CPU."""

from collections.abc import Mapping, Sequence

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.inference import onnx_model
from hq_jax.runtime import cores

# onnxruntime's name for errors; what it warns of concerns its own optimizer.
_ERRORS = 3


class OnnxEngine:
  """The network of a file in onnxruntime.

  Attributes:
    activations: 'int8' where the ranges of activations are known, and then
      kernels are int8 in memory; else 'float32', and so are the kernels.
  """

  def __init__(
    self,
    artifact: artifact_lib.Artifact,
    *,
    ranges: Mapping[str, float] | None = None,
    num_threads: int | None = None,
    more_outputs: Sequence[str] = (),
  ):
    """Builds the network.

    Args:
      artifact: a validated artifact, such as one that was read.
      ranges: as of `make_onnx`; None for those of the file, if it has any.
      num_threads: None for one for each core that the process may use.
      more_outputs: as of `make_onnx`, for `outputs`.
    """
    import onnxruntime as ort

    ranges = ranges or onnx_model.find_ranges(artifact)
    self.activations = 'int8' if ranges else 'float32'
    # Kernels of layers that take float32 are float32, too: onnxruntime would
    # turn int8 into float32 anew for each batch.
    model = onnx_model.make_onnx(
      artifact,
      weights='float32',
      activations=self.activations,
      ranges=ranges,
      more_outputs=more_outputs,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or cores.count_cores()
    options.log_severity_level = _ERRORS
    # Its threads would wait for the next batch by spinning, on the cores that
    # a server needs to decode images meanwhile.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    self._session = ort.InferenceSession(
      model, options, providers=['CPUExecutionProvider']
    )

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Maps float32 `[n, height, width, channels]` to `[n, classes]`."""
    return self.outputs(images)[0]

  def outputs(self, images: np.ndarray) -> list[np.ndarray]:
    """The logits, and `[n, width, height, ..]` of the layers asked for."""
    return self._session.run(None, {onnx_model.INPUT: images})
