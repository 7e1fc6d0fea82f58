"""A classifier from its file: images in, classes and probabilities out."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import importlib.util
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as pil

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import reader
from hq_jax.core import extras
from hq_jax.core import files
from hq_jax.data import normalization
from hq_jax.data import preprocessing as preprocessing_lib
from hq_jax.data.images import memory
from hq_jax.inference import network
from hq_jax.runtime import address_space

# A file's path, the bytes of one, an image of Pillow, or pixels: uint8,
# `[h, w, c]` or `[h, w]`.
Image = str | os.PathLike[str] | preprocessing_lib.Image

Apply = Callable[[np.ndarray], np.ndarray]

# Images that are in memory at once, normalized.
_BATCH = 32


class Prediction(NamedTuple):
  """What an image shows.

  Attributes:
    classes: the names of the classes, from the most probable.
    probabilities: of these, float32 `[classes]`.
  """

  classes: tuple[str, ...]
  probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A network that was read from a file; see `load`.

  Attributes:
    artifact: what the file holds.
    engine: what computes: 'onnxruntime' or 'jax'.
    apply: from images as `preprocess` returns them, float32 `[n, h, w, c]`, to
      logits, float32 `[n, classes]`.
    activations: what stands between the layers: 'float32' or 'int8'.
  """

  artifact: artifact_lib.Artifact
  engine: str
  apply: Apply = dataclasses.field(repr=False)
  activations: str = 'float32'

  @property
  def class_names(self) -> tuple[str, ...]:
    """In the order of the logits; numbers where the file has no names."""
    count = network.count_classes(self.artifact)
    return self.artifact.class_names or tuple(str(i) for i in range(count))

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Of what the network takes: (height, width, channels)."""
    return self.artifact.input_shape

  @property
  def preprocessing(self) -> dict[str, Any]:
    """How an image becomes that, as the file says it."""
    return self.artifact.preprocessing

  @functools.cached_property
  def variables(self) -> dict[str, Any]:
    """Those of the Flax module, as `artifact.to_variables` makes them."""
    return artifact_lib.to_variables(self.artifact)

  def preprocess(self, images: Image | Sequence[Image]) -> np.ndarray:
    """Turns images into what the network takes.

    Args:
      images: one image or several, as of `predict`.

    Returns:
      float32 `[n, h, w, c]`; n is 1 for one image.

    Raises:
      ValueError: as `predict`.
    """
    listed, _ = _to_list(images)
    return self._preprocess(listed)

  def logits(self, images: Image | Sequence[Image]) -> np.ndarray:
    """Computes the logits of images.

    Args:
      images: one image or several, as of `predict`.

    Returns:
      float32 `[n, classes]`; n is 1 for one image.

    Raises:
      ValueError: as `predict`.
    """
    listed, _ = _to_list(images)
    found = []
    for start in range(0, len(listed), _BATCH):
      inputs = self._preprocess(listed[start : start + _BATCH])
      found.append(np.asarray(self.apply(inputs), np.float32))
    return np.concatenate(found)

  def predict(
    self, images: Image | Sequence[Image], top: int | None = None
  ) -> Prediction | list[Prediction]:
    """Says what images show.

    The probabilities are the softmax of the logits.

    Args:
      images: one image, or a list or a batch of several, of any sizes: the
        path of an image file, such as JPEG, PNG, WebP or TIFF, the bytes of
        one, an image of Pillow, or an array of uint8: `[h, w, c]` with 1 or 3
        channels, `[h, w]`, or a batch `[n, h, w, c]`.
      top: how many classes to list, at least 1; None for all.

    Returns:
      A `Prediction` for one image, a list of them for a list or a batch.

    Raises:
      ValueError: an image that cannot be read, an array that is not uint8 or
        has another number of channels, no image, a `top` below 1; one line,
        which names the file or the place in the list.
    """
    if top is not None and (type(top) is not int or top < 1):
      raise ValueError(f'top is {top!r}, wanted an int of at least 1, or None')
    _, is_single = _to_list(images)
    found = [self.rank(row, top) for row in self.logits(images)]
    return found[0] if is_single else found

  def rank(self, logits: np.ndarray, top: int | None = None) -> Prediction:
    """Turns the logits of one image into its most probable classes."""
    if not np.isfinite(logits).all():
      raise ValueError('logits are not finite: the weights of the file are bad')
    probabilities = softmax(logits)
    order = np.argsort(-logits, kind='stable')[:top]
    names = self.class_names
    return Prediction(tuple(names[i] for i in order), probabilities[order])

  def _preprocess(self, listed: list[tuple[str, Image]]) -> np.ndarray:
    pixels = []
    for name, image in listed:
      if isinstance(image, str | os.PathLike):
        image = files.read(image, memory.MAX_BYTES)
      with reader.naming(name):
        pixels.append(
          preprocessing_lib.to_pixels(
            image, self.input_shape, self.preprocessing
          )
        )
    return normalization.normalize(np.stack(pixels), self.preprocessing)


def softmax(logits: np.ndarray) -> np.ndarray:
  """The probabilities that logits `[.., classes]` stand for, in float32."""
  logits = logits.astype(np.float64)
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def load(
  path: str | os.PathLike[str],
  engine: str | None = None,
  *,
  activations: str | None = None,
) -> Classifier:
  """Reads an `.hq` file and makes it ready to classify images.

  >>> import tempfile
  >>> one, ones = np.ones(1, np.float32), np.ones((4, 1), np.float32)
  >>> tensors = {'params/dense1/kernel': ones}
  >>> tensors |= {'params/norm1/scale': one, 'params/norm1/bias': one}
  >>> tensors |= {'params/head/kernel': np.array([[0.01, 0]], np.float32)}
  >>> tensors |= {'params/head/bias': np.array([0, 5], np.float32)}
  >>> model = artifact_lib.Artifact(
  ...   model='mlp',
  ...   model_args={'widths': [1]},
  ...   input_shape=(2, 2, 1),
  ...   preprocessing={'mean': [0.0], 'std': [1.0]},
  ...   class_names=('bright', 'dark'),
  ...   tensors=tensors,
  ...   folded_norms={'norm1': 1e-5},
  ... )
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   _ = artifact_lib.write(f'{folder}/model.hq', model)
  ...   classifier = load(f'{folder}/model.hq')
  >>> classifier.predict(pil.new('L', (640, 480), 'white'), top=1).classes
  ('bright',)
  >>> batch = np.array([[[[255], [255]]] * 2, [[[0], [0]]] * 2], np.uint8)
  >>> [found.classes[0] for found in classifier.predict(batch)]
  ['bright', 'dark']
  >>> classifier.logits(batch).shape
  (2, 2)

  Args:
    path: of the file.
    engine: 'onnxruntime', the fastest on a CPU, or 'jax', for GPUs and TPUs;
      None for the first of them that is installed.
    activations: 'int8', which is two to three times faster for ResNets and
      moves the logits by about a percent: onnxruntime does it for a file that
      has the ranges of its activations; or 'float32'. None for int8 where that
      is possible.

  Returns:
    The classifier.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no good one, or of a network that is not known; its
      tensors are not those of its network; an unknown engine, or activations
      that it cannot have.
    ModuleNotFoundError: the engine is not installed.
  """
  engine = _choose(engine)
  if activations not in (None, 'float32', 'int8'):
    raise ValueError(
      f"activations is {activations!r}, wanted 'float32', 'int8' or None"
    )
  artifact = network.read(path)
  with reader.naming(os.fspath(path)):
    normalization.check(artifact.preprocessing, artifact.input_shape)
    try:
      apply, found = _ENGINES[engine](artifact, activations == 'float32')
    except ModuleNotFoundError as error:
      raise extras.explain(error, f'engine {engine!r}') from error
    if activations not in (None, found):
      raise ValueError(
        f'activations is {activations!r}, wanted {found!r}: int8 takes'
        ' onnxruntime, and a file with the ranges of its activations'
      )
  return Classifier(artifact, engine, apply, found)


def _to_list(images: Any) -> tuple[list[tuple[str, Any]], bool]:
  """Names each image, and says whether there is just one, not in a list."""
  if isinstance(images, bytearray | memoryview):
    images = bytes(images)
  if isinstance(images, str | os.PathLike | bytes | pil.Image):
    return [(_name(images, 'image'), images)], True
  if not isinstance(images, list | tuple):
    array = np.asarray(images)
    if array.dtype == object:
      raise ValueError(
        f'images is of type {type(images).__name__}, wanted paths, bytes, PIL'
        ' images, arrays of uint8, or a list of them'
      )
    if array.ndim != 4:
      return [('image', array)], True
    images = array
  if not len(images):
    raise ValueError('images is empty, wanted at least one image')
  return [
    (_name(image, f'images[{index}]'), image)
    for index, image in enumerate(images)
  ], False


def _name(image: Any, otherwise: str) -> str:
  is_path = isinstance(image, str | os.PathLike)
  return os.fspath(image) if is_path else otherwise


def _choose(engine: str | None) -> str:
  if engine is not None:
    if engine not in _ENGINES:
      raise ValueError(
        f'engine is {engine!r}, wanted one of: {", ".join(_ENGINES)}'
      )
    return engine
  for name in _ENGINES:
    if importlib.util.find_spec(name) is not None:
      return name
  raise ModuleNotFoundError(
    'a classifier needs onnxruntime or jax, and neither is installed: pip'
    ' install onnxruntime',
    name='onnxruntime',
  )


def _make_onnxruntime(
  artifact: artifact_lib.Artifact, is_float: bool
) -> tuple[Apply, str]:
  from hq_jax.inference import onnx_engine

  if is_float:
    artifact = artifact._replace(activation_ranges=())
  engine = onnx_engine.OnnxEngine(artifact)
  return engine.logits, engine.activations


def _make_jax(
  artifact: artifact_lib.Artifact, is_float: bool
) -> tuple[Apply, str]:
  from hq_jax.inference import jax_network

  address_space.check(address_space.JAX_BYTES)
  del is_float  # It is, always.
  return jax_network.JaxEngine(artifact).logits, 'float32'


# In the order of preference.
_ENGINES = {'onnxruntime': _make_onnxruntime, 'jax': _make_jax}
