"""Conversions of a classifier to the formats of other tools."""

from collections.abc import Iterable, Iterator
import os
import pathlib
from typing import Any, TYPE_CHECKING

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.inference import architectures
from hq_jax.inference import network
from hq_jax.runtime import address_space
from hq_jax.runtime import terminal

if TYPE_CHECKING:
  import torch

# A path of an `.hq` file, its content, or what `hq_jax.load` returns.
Model = Any
Images = str | os.PathLike[str] | Iterable[Any]


def get_artifact(model: Model) -> artifact_lib.Artifact:
  """The content of the file of a classifier."""
  if isinstance(model, str | os.PathLike):
    return network.read(model)
  return model if isinstance(model, artifact_lib.Artifact) else model.artifact


def to_onnx(
  model: Model,
  *,
  weights: str = 'int8',
  activations: str = 'float32',
  calibrate: Images | None = None,
  raw_input: bool = False,
) -> bytes:
  """Makes an ONNX model.

  It maps `images` `[n, height, width, channels]` to `logits` `[n, classes]`,
  for every n. `onnx.checker` has accepted it.

  >>> to_onnx('model.hq', weights='int2')  # doctest: +SKIP

  Args:
    model: the path of an `.hq` file, an `Artifact`, or a `Classifier`.
    weights: 'int8' keeps the codes of quantized kernels, with a scale for each
      channel; 'int2' packs four ternary ones in a byte (opset 25); 'float32'
      multiplies them out.
    activations: 'float32', or 'int8': what layers pass on is rounded to 8 bits,
      within the ranges that the file holds or that `calibrate` shows.
    calibrate: a folder of images, or images as `Classifier.preprocess` takes
      them: some hundreds, such as those the network was trained with.
    raw_input: whether `images` are uint8 pixels of the network's size, which
      the model normalizes, rather than normalized float32.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: an option that is unknown or has no effect; a file whose tensors
      are not those of its network, no ranges, or an image that cannot be read.
  """
  import onnx

  from hq_jax.inference import onnx_model

  artifact = get_artifact(model)
  ranges = None
  if calibrate is not None:
    if activations != 'int8':
      raise ValueError(
        f"calibrate is given, but activations is {activations!r}, wanted 'int8'"
      )
    ranges = _measure_ranges(artifact, calibrate)
  content = onnx_model.make_onnx(
    artifact,
    weights=weights,
    activations=activations,
    ranges=ranges,
    raw_input=raw_input,
  )
  onnx.checker.check_model(content, full_check=True)
  return content


def list_kernels(content: bytes) -> dict[str, list[str]]:
  """The layers whose kernels an ONNX model has in each type, by the type."""
  import onnx

  found: dict[str, list[str]] = {}
  for tensor in onnx.load_from_string(content).graph.initializer:
    layer, _, part = tensor.name.rpartition('/')
    if part in ('codes', 'kernel'):
      name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
      found.setdefault(name.replace('float', 'float32'), []).append(layer)
  return found


def to_torch(model: Model) -> 'torch.nn.Module':
  """Makes a module of PyTorch (extra `torch`).

  It maps normalized images `[n, channels, height, width]`, channels first as
  PyTorch has them, to logits. The keys of its state dictionary are those of
  torchvision for the networks that torchvision has, and named alike for others.

  >>> import hq_jax
  >>> network = hq_jax.export.to_torch('model.hq')  # doctest: +SKIP
  >>> x = classifier.preprocess('cat.png').transpose(0, 3, 1, 2)
  ... # doctest: +SKIP
  >>> network(torch.from_numpy(x))  # doctest: +SKIP

  Args:
    model: the path of an `.hq` file, an `Artifact`, or a `Classifier`.

  Returns:
    The module, in evaluation mode.

  Raises:
    ValueError: a file whose tensors are not those of its network.
  """
  from hq_jax.core import torch_names
  from hq_jax.inference.export import torch_network
  from hq_jax.inference.export import torch_state

  artifact = get_artifact(model)
  return torch_network.Network(
    network.read_layers(artifact),
    torch_names.get_naming(artifact.model),
    torch_state.make_state(artifact),
  )


def to_safetensors(model: Model) -> bytes:
  """Makes a `.safetensors` file with a state dictionary of PyTorch.

  All weights are float32, in torchvision's names: what `to_torch` has. It needs
  no PyTorch.

  Args:
    model: the path of an `.hq` file, an `Artifact`, or a `Classifier`.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: a file whose tensors are not those of its network.
  """
  import safetensors.numpy

  from hq_jax.inference.export import torch_state

  state = torch_state.make_state(get_artifact(model))
  return safetensors.numpy.save(state)


def to_stablehlo(model: Model) -> bytes:
  """Makes a program of StableHLO that needs JAX alone to run.

  Ternary codes lie in it as 2 bits. It maps normalized float32 images `[n,
  height, width, channels]` to logits, for every n, on CPU, GPU and TPU:
  `jax.export.deserialize(bytearray(content)).call(images)`.

  Args:
    model: the path of an `.hq` file, an `Artifact`, or a `Classifier`.

  Returns:
    The bytes of the file.

  Raises:
    ValueError: a file whose tensors are not those of its network.
  """
  from hq_jax.inference.export import stablehlo

  address_space.check(address_space.JAX_BYTES)
  return stablehlo.make_stablehlo(get_artifact(model))


def _measure_ranges(
  artifact: artifact_lib.Artifact, images: Images
) -> dict[str, float]:
  from hq_jax.inference import calibration
  from hq_jax.inference import classifier as classifier_lib

  # For its preprocessing; it computes nothing.
  classifier = classifier_lib.Classifier(artifact, 'none', np.asarray)
  inputs = (classifier.preprocess(x)[0] for x in _list_images(images))
  found = calibration.measure(artifact, inputs)
  names = architectures.find_activations(network.read_layers(artifact))
  return dict(zip(names, found, strict=True))


def _list_images(images: Images) -> Iterator[Any]:
  """The images, those of a folder in its place."""
  from hq_jax.data.sets import image_files

  if isinstance(images, str | os.PathLike):
    images = [images]
  for image in images:
    if isinstance(image, str | os.PathLike) and os.path.isdir(image):
      folder = pathlib.Path(os.path.abspath(image))
      ignored: dict[str, int] = {}
      paths = image_files.list_images(folder, '.', ignored)
      if ignored:
        kinds = image_files.describe_ignored(ignored)
        terminal.refuse(f'{image}: no images, ignored: {kinds}')
      if not paths:
        raise ValueError(
          f'{image}: no image in it, wanted one that can be read'
        )
      yield from (folder / path for path in paths)
    else:
      yield image
