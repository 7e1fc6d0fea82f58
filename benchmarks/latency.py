"""How fast a compressed classifier answers, beside dense ones on a CPU.

  python -m benchmarks.latency

ResNet-18, ResNet-50 and MobileNetV2 for 1,000 classes at 224 pixels, with drawn
weights: 82% of the ternary codes are zero, the stem and depthwise kernels are
int8, and the norms have the statistics of drawn images, so that activations
neither grow nor vanish. Their ranges are measured on other such images. (Errors
of logits are those of drawn networks: rounding grows from layer to layer, in
ours as in onnxruntime's.)

- ours: `hq_jax.load` of the `.hq` file, with onnxruntime (8-bit activations),
  with its activations in float32, and with JAX;
- onnxruntime float32: the same network in float32, dense, norms folded;
- onnxruntime int8: that, by onnxruntime's own `quantize_static` (QDQ, uint8
  activations, int8 weights per channel), calibrated on the same images;
- torch: the same in PyTorch, float32, channels last, where it is installed.

All answer in one process that is pinned to one core, in turns: a round runs
each once, in an order that turns around every other round. A ratio is taken
within the round; medians over the rounds. First answers and peak memory are of
fresh processes with all cores: from their start to logits of one image. Their
CPU seconds, of all threads, differ less where others use the machine, too.

Prints Markdown tables, and as its last line a JSON object.
"""

import argparse
from collections.abc import Callable
import importlib.util
import json
import logging
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import tabulate
import tqdm

from benchmarks import file_size
import hq_jax
from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.data import normalization
from hq_jax.inference import calibration
from hq_jax.inference import onnx_model
from hq_jax.runtime import provenance

NETWORKS = ('resnet18', 'resnet50', 'mobilenet_v2')
OURS, FLOAT32, INT8 = 'ours', 'onnxruntime float32', 'onnxruntime int8'
# Of ImageNet.
PREPROCESSING = {
  'pixel_min': 0.0,
  'pixel_max': 255.0,
  'mean': [123.675, 116.28, 103.53],
  'std': [58.395, 57.12, 57.375],
}
_MOMENTUM = 0.9  # of the norms' statistics
_LEAST_VARIANCE = 0.1  # of a channel, over the mean of its layer
_CALIBRATION_IMAGES = 16
_TEST_IMAGES = 32

_NOT_TERNARY = ('stem', 'depthwise', 'patch_embed')

# From normalized images to logits.
Engine = Callable[[np.ndarray], np.ndarray]


def draw_images(rng: np.random.Generator, number: int, side: int) -> np.ndarray:
  """Pictures with blobs of all sizes, normalized: `[number, side, side, 3]`."""
  pictures = np.zeros((number, side, side, 3), np.float32)
  size = 4
  while size <= side:
    coarse = rng.standard_normal((number, size, size, 3), np.float32)
    places = np.arange(side) * size // side
    pictures += coarse[:, places][:, :, places] / np.sqrt(size)
    size *= 2
  pixels = np.clip(120 + 60 * pictures / pictures.std(), 0, 255)
  return normalization.normalize(pixels.astype(np.uint8), PREPROCESSING)


def draw_network(
  name: str, zeros: float, side: int, rng: np.random.Generator
) -> artifact_lib.Artifact:
  """A network with drawn weights, as a training would write its file."""
  model = models.build(name, num_classes=1000, arguments={})
  images = draw_images(rng, 8, side)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  leaves = trees.flatten(shapes['params'])
  is_kernel = lambda path: path.endswith('/kernel')
  kernels = {path: x.shape for path, x in leaves.items() if is_kernel(path)}
  codes = file_size.draw_codes(
    {
      path: shape
      for path, shape in kernels.items()
      if not any(name in path for name in _NOT_TERNARY)
    },
    zeros,
    file_size.CHANNEL_SPREAD,
    rng,
  )
  quantized, int8, params = {}, {}, {}
  for path, leaf in leaves.items():
    if path in codes:
      shape = _get_scale_shape(path, leaf.shape)
      scale = np.sqrt(math.prod(shape) / np.count_nonzero(codes[path]))
      scales = np.full(shape, scale, np.float16)
      quantized[path] = qtensors.TernaryTensor(codes[path], scales)
      params[path] = np.float32(codes[path]) * scales
    elif path in kernels:
      int8[path] = artifact_lib.quantize_int8(rng.standard_normal(leaf.shape))
      params[path] = np.float32(int8[path].codes) * int8[path].scale
    elif path.endswith('/scale'):
      params[path] = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    else:
      params[path] = 0.3 * rng.standard_normal(leaf.shape, np.float32)
  variables = {'params': _unflatten(params)}
  if 'batch_stats' in shapes:
    statistics = _measure_statistics(model, params, shapes, images)
    variables['batch_stats'] = statistics
  return to_artifact.make_artifact(
    variables,
    quantized,
    int8,
    model=name,
    model_arguments={},
    input_shape=(side, side, 3),
    preprocessing=PREPROCESSING,
    class_names=tuple(f'class {i}' for i in range(1000)),
  )


def _get_scale_shape(path: str, shape: tuple[int, ...]) -> list[int]:
  """A scale for each output, and in a stack of blocks for each block."""
  inputs: tuple[int, ...] = tuple(range(len(shape) - 1))
  if path.startswith('blocks/'):
    inputs = (1, 2) if 'attention/out' in path else (1,)
  return [1 if axis in inputs else n for axis, n in enumerate(shape)]


def _unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(leaves, sep='/')


def _measure_statistics(model, params, shapes, images):
  """The statistics of the norms on these images."""
  statistics_of_zero = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), shapes['batch_stats']
  )
  variables = {
    'params': _unflatten(params),
    'batch_stats': statistics_of_zero,
  }
  apply = jax.jit(
    lambda x, y: model.apply(x, y, train=True, mutable=['batch_stats'])
  )
  _, changed = apply(variables, images)
  found = {}
  for path, x in trees.flatten(changed['batch_stats']).items():
    x = np.asarray(x) / (1 - _MOMENTUM)
    # Dead channels of a network that was not trained would be pure noise.
    is_variance = path.endswith('/var')
    found[path] = (
      np.maximum(x, _LEAST_VARIANCE * x.mean()) if is_variance else x
    )
  return _unflatten(found)


def write_models(
  artifact: artifact_lib.Artifact, images: np.ndarray, folder: str
) -> dict[str, str]:
  """Writes the files of a network, and returns their paths."""
  paths = {
    OURS: os.path.join(folder, f'{artifact.model}.hq'),
    FLOAT32: os.path.join(folder, f'{artifact.model}.onnx'),
    INT8: os.path.join(folder, f'{artifact.model}_int8.onnx'),
  }
  ranges = calibration.measure(artifact, images)
  artifact_lib.write(paths[OURS], artifact._replace(activation_ranges=ranges))
  with open(paths[FLOAT32], 'wb') as file:
    file.write(onnx_model.make_onnx(artifact, weights='float32'))
  _quantize_static(paths[FLOAT32], paths[INT8], images)
  return paths


def _quantize_static(source: str, target: str, images: np.ndarray) -> None:
  from onnxruntime import quantization
  from onnxruntime.quantization import shape_inference

  class Reader(quantization.CalibrationDataReader):
    """Gives the images one by one."""

    def __init__(self):
      self._rest = iter(images)

    def get_next(self):
      image = next(self._rest, None)
      return None if image is None else {onnx_model.INPUT: image[None]}

  prepared = f'{target}.prepared'
  shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
  quantization.quantize_static(
    prepared,
    target,
    Reader(),
    per_channel=True,
    # On x86 the faster of its two.
    activation_type=quantization.QuantType.QUInt8,
    weight_type=quantization.QuantType.QInt8,
  )
  os.unlink(prepared)


def _run_onnx(path: str, num_threads: int) -> Engine:
  import onnxruntime as ort

  options = ort.SessionOptions()
  options.intra_op_num_threads = num_threads
  options.log_severity_level = 3
  session = ort.InferenceSession(path, options)
  return lambda images: session.run(None, {onnx_model.INPUT: images})[0]


def _run_torch(path: str) -> Engine:
  import torch

  from hq_jax.inference import export

  torch.set_num_threads(1)
  module = export.to_torch(path).to(memory_format=torch.channels_last)

  def run(images: np.ndarray) -> np.ndarray:
    # As channels last: no value is moved.
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
      return module(x).numpy()

  return run


def load_engines(paths: dict[str, str]) -> dict[str, Engine]:
  """All that answer, ready to."""
  ours = paths[OURS]
  engines = {
    OURS: hq_jax.load(ours, 'onnxruntime').apply,
    'ours, activations float32': hq_jax.load(
      ours, 'onnxruntime', activations='float32'
    ).apply,
    'ours, JAX': hq_jax.load(ours, 'jax').apply,
    FLOAT32: _run_onnx(paths[FLOAT32], 1),
    INT8: _run_onnx(paths[INT8], 1),
  }
  if importlib.util.find_spec('torch'):
    engines['torch float32'] = _run_torch(ours)
  return engines


def measure_seconds(
  engines: dict[str, Engine], images: np.ndarray, rounds: int
) -> dict[str, list[float]]:
  """The seconds of each engine in each round."""
  for run in engines.values():
    run(images)
  seconds: dict[str, list[float]] = {name: [] for name in engines}
  for index in tqdm.trange(rounds, leave=False, disable=None):
    order = list(engines) if index % 2 else list(reversed(engines))
    for name in order:
      started = time.perf_counter()
      engines[name](images)
      seconds[name].append(time.perf_counter() - started)
  return seconds


def summarize(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
  """Medians of the seconds, and of the ratios within a round."""
  base = seconds[FLOAT32]
  return {
    name: {
      'seconds': statistics.median(values),
      'over_ort_float32': statistics.median(
        value / other for value, other in zip(values, base, strict=True)
      ),
    }
    for name, values in seconds.items()
  }


def compare_logits(
  engines: dict[str, Engine], images: np.ndarray
) -> dict[str, dict[str, float]]:
  """How far logits are from float32's, `||x - y|| / ||y||`, and its classes."""
  wanted = engines[FLOAT32](images)
  found = {}
  for name, run in engines.items():
    logits = run(images)
    error = np.linalg.norm(logits - wanted) / np.linalg.norm(wanted)
    same = logits.argmax(axis=1) == wanted.argmax(axis=1)
    found[name] = {
      'logit_error': float(error),
      'same_class': float(same.mean()),
    }
  return found


_FIRST_ANSWERS = {
  OURS: """
import hq_jax
hq_jax.load({path!r}, 'onnxruntime').apply(images)
""",
  'ours, JAX': """
import hq_jax
hq_jax.load({path!r}, 'jax').apply(images)
""",
  FLOAT32: """
import onnxruntime
session = onnxruntime.InferenceSession({path!r})
session.run(None, {{'images': images}})
""",
  INT8: """
import onnxruntime
session = onnxruntime.InferenceSession({path!r})
session.run(None, {{'images': images}})
""",
}


def measure_first_answer(
  name: str, path: str, side: int, rounds: int, cores: set[int]
) -> dict[str, float]:
  """Seconds from the start of a process to logits, and its peak memory."""
  source = '\n'.join(
    [
      f'import os; os.sched_setaffinity(0, {cores})' if cores else '',
      'import numpy',
      f'images = numpy.zeros((1, {side}, {side}, 3), numpy.float32)',
      _FIRST_ANSWERS[name].format(path=path),
      'status = open("/proc/self/status").read()',
      'print(status.split("VmHWM:")[1].split()[0])',
    ]
  )
  seconds, cpu_seconds, kilobytes = [], [], []
  for _ in range(rounds):
    before = _children_seconds()
    started = time.perf_counter()
    done = subprocess.run(
      [sys.executable, '-c', source],
      check=True,
      capture_output=True,
      text=True,
    )
    seconds.append(time.perf_counter() - started)
    cpu_seconds.append(_children_seconds() - before)
    kilobytes.append(int(done.stdout.split()[-1]))
  return {
    'first_answer_seconds': statistics.median(seconds),
    'first_answer_cpu_seconds': statistics.median(cpu_seconds),
    'peak_bytes': 1024 * statistics.median(kilobytes),
  }


def _children_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def measure_network(
  name: str,
  folder: str,
  *,
  zeros: float,
  side: int,
  batches: tuple[int, ...],
  rounds: int,
  fresh_rounds: int,
  seed: int,
  cores: set[int],
) -> dict[str, Any]:
  """All measurements of one network."""
  rng = np.random.default_rng(seed)
  artifact = draw_network(name, zeros, side, rng)
  paths = write_models(
    artifact, draw_images(rng, _CALIBRATION_IMAGES, side), folder
  )
  found: dict[str, Any] = {
    'file_bytes': {name: os.path.getsize(path) for name, path in paths.items()},
    'fresh': {
      engine: measure_first_answer(
        engine, paths.get(engine, paths[OURS]), side, fresh_rounds, cores
      )
      for engine in _FIRST_ANSWERS
    },
  }
  engines = load_engines(paths)
  found['logits'] = compare_logits(
    engines, draw_images(rng, _TEST_IMAGES, side)
  )
  found['batches'] = {}
  for batch in batches:
    images = draw_images(rng, batch, side)
    seconds = measure_seconds(engines, images, rounds)
    found['batches'][batch] = summarize(seconds)
  return found


def make_tables(found: dict[str, dict[str, Any]]) -> str:
  """Markdown tables: speed, and what else differs."""
  speed, rest = [], []
  for name, network in found.items():
    for engine, logits in network['logits'].items():
      cells = []
      for batch in network['batches'].values():
        cells += [
          f'{1000 * batch[engine]["seconds"]:.1f}',
          f'{batch[engine]["over_ort_float32"]:.3f}',
        ]
      error, same = logits['logit_error'], logits['same_class']
      speed.append([name, engine, *cells, f'{error:.2%}', f'{same:.0%}'])
    for engine, fresh in network['fresh'].items():
      num_bytes = network['file_bytes'].get(engine, network['file_bytes'][OURS])
      rest.append(
        [
          *(name, engine, f'{fresh["first_answer_seconds"]:.2f}'),
          f'{fresh["first_answer_cpu_seconds"]:.2f}',
          *(f'{fresh["peak_bytes"] / 1e6:.0f}', f'{num_bytes:,}'),
        ]
      )
  heads = ['network', 'engine']
  for batch in network['batches']:
    heads += [f'batch {batch}, ms', 'over onnxruntime float32']
  heads += ['error of logits', 'same class']
  others = ['network', 'engine', 'first answer, s', 'of CPU, s', 'peak, MB']
  others += ['file, bytes']
  make = lambda rows, heads: tabulate.tabulate(
    rows, heads, 'github', disable_numparse=True
  )
  return f'{make(speed, heads)}\n\n{make(rest, others)}'


def make_result(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """The numbers that are compared with what is promised: of the worst."""
  result: dict[str, Any] = {}
  for name, network in found.items():
    numbers = {
      f'ours_over_ort_float32_b{batch}': engines[OURS]['over_ort_float32']
      for batch, engines in network['batches'].items()
    }
    num_bytes = network['file_bytes']
    fresh = network['fresh'][OURS]['first_answer_seconds']
    numbers |= {
      'file_over_ort_int8_file': num_bytes[OURS] / num_bytes[INT8],
      'first_answer_seconds': fresh,
    }
    for key, value in numbers.items():
      result[f'{key}_{name}'] = value
      result[key] = max(value, result.get(key, 0.0))
  if 'resnet18' in found:
    # It is what the first answer is promised for.
    result['first_answer_seconds'] = result['first_answer_seconds_resnet18']
  return result


def main() -> None:
  """Draws, measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', nargs='+', default=NETWORKS)
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 8])
  parser.add_argument('--side', type=int, default=224)
  parser.add_argument('--zeros', type=float, default=0.82)
  parser.add_argument('--rounds', type=int, default=31)
  parser.add_argument('--fresh_rounds', type=int, default=5)
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  # What quantize_static says of preparing a model, which is done.
  logging.getLogger().setLevel(logging.ERROR)
  # Before JAX counts the cores.
  cores = _pin()
  found = {}
  for name in arguments.networks:
    with tempfile.TemporaryDirectory() as folder:
      found[name] = measure_network(
        name,
        folder,
        zeros=arguments.zeros,
        side=arguments.side,
        batches=tuple(arguments.batches),
        rounds=arguments.rounds,
        fresh_rounds=arguments.fresh_rounds,
        seed=arguments.seed,
        cores=cores,
      )
  if cores:
    os.sched_setaffinity(0, cores)
  print(make_tables(found))
  print(
    json.dumps(
      make_result(found)
      | {
        'networks': found,
        'seed': arguments.seed,
        'rounds': arguments.rounds,
        'commit': provenance.get_commit(),
        'hardware': provenance.get_hardware(),
      },
      sort_keys=True,
    )
  )


def _pin() -> set[int]:
  """Pins the process to its last core; returns the cores that it had."""
  if not hasattr(os, 'sched_setaffinity'):
    return set()
  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(cores)})
  return cores


if __name__ == '__main__':
  main()
