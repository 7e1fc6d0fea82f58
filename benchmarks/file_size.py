"""How small the file is: ours against entropy, brotli, zstd, xz and Orbax.

  python -m benchmarks.file_size

Ternary trees in the shapes of ResNet-18, ResNet-50 and MobileNetV2 at 75, 85
and 90% zeros, drawn from a fixed seed: i.i.d., and with a density of its own
for every input and output channel. And a trained model, that of
configs/digits.py, which is trained first where its file is missing. All are
given the same codes and nothing else: no scales, no norms.

- entropy: the order-0 entropy of each layer's codes, summed over the layers;
- ours: the whole `.hq` file, with its header;
- brotli -q 11, zstd -19 and xz -9e: of one stream of the codes of all layers,
  packed as 5 codes in a byte or, for zstd, 4 where that gives fewer bytes;
- Orbax: the checkpoint of the tree of int8 codes, all files together.

Prints a Markdown table, and as its last line a JSON object with the worst
ratios of ours over entropy, what ResNet-50 takes to write and read on one core,
and the nanoseconds per weight that the structured trees take to read, which are
coded by contexts: the worst of the trees, medians of so many rounds.
"""

import argparse
from collections.abc import Mapping
from concurrent import futures
import json
import lzma
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from typing import Any

from absl import logging
import brotli
import jax
import numpy as np
import orbax.checkpoint as ocp
import tabulate
import zstandard

from benchmarks import memory
from configs import digits
from hq_jax import artifact
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.models import resnet
from hq_jax.runtime import provenance
from hq_jax.training import train

Codes = dict[str, np.ndarray]

# Standard deviation of the log-odds of a channel's density, of input and of
# output channels.
CHANNEL_SPREAD = 0.5


def get_resnet_shapes(depth: int) -> dict[str, tuple[int, ...]]:
  """The shapes of the kernels of a ResNet with 1,000 classes."""
  model = resnet.ResNet(num_classes=1000, depth=depth)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32)
  )
  kernels = trees.flatten_selected(variables['params'])
  return {path: leaf.shape for path, leaf in kernels.items()}


def get_mobilenet_shapes() -> dict[str, tuple[int, ...]]:
  """The shapes of the kernels of MobileNetV2, width 1, 1,000 classes.

  From table 2 of Sandler et al., "MobileNetV2: Inverted Residuals and Linear
  Bottlenecks", CVPR 2018.
  """
  shapes: dict[str, tuple[int, ...]] = {'stem/kernel': (3, 3, 3, 32)}
  stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3))
  stages += ((6, 160, 3), (6, 320, 1))
  channels, block = 32, 0
  for expansion, width, num_blocks in stages:
    for _ in range(num_blocks):
      name, hidden = f'block{block}', channels * expansion
      if expansion > 1:
        shapes[f'{name}/expand/kernel'] = (1, 1, channels, hidden)
      shapes[f'{name}/depthwise/kernel'] = (3, 3, 1, hidden)
      shapes[f'{name}/project/kernel'] = (1, 1, hidden, width)
      channels, block = width, block + 1
  shapes['last/kernel'] = (1, 1, channels, 1280)
  return shapes | {'head/kernel': (1280, 1000)}


def draw_codes(
  shapes: Mapping[str, tuple[int, ...]],
  zeros: float,
  spread: float,
  rng: np.random.Generator,
) -> Codes:
  """Draws ternary codes.

  The odds of a code that is not zero are `(1 - zeros) / zeros`, times
  `exp(spread * normal)` for each input and for each output channel, times
  what makes `zeros` of each layer's codes zero on average.
  """
  codes = {}
  for path, shape in shapes.items():
    channels = spread * rng.standard_normal(shape[-1])
    channels = channels + spread * rng.standard_normal(shape[-2])[:, None]
    low, high = -20.0, 20.0
    for _ in range(40):
      middle = (low + high) / 2
      dense = np.mean(1 / (1 + np.exp(-(channels + middle))))
      low, high = (low, middle) if dense > 1 - zeros else (middle, high)
    odds = (channels + high).astype(np.float32)
    drawn = rng.random(shape, np.float32)
    nonzero = drawn < 1 / (1 + np.exp(-odds))
    signs = rng.integers(0, 2, shape, np.int8)
    codes[path] = np.where(nonzero, 2 * signs - 1, 0).astype(np.int8)
  return codes


def make_artifact(codes: Codes) -> artifact.Artifact:
  """An artifact that holds codes and nothing else."""
  return artifact.Artifact(
    model='benchmark',
    model_args={},
    input_shape=(1,),
    preprocessing={},
    class_names=(),
    tensors={
      f'params/{path}': qtensors.TernaryTensor(values)
      for path, values in codes.items()
    },
    folded_norms={},
  )


def entropy_bytes(codes: Codes) -> float:
  """The order-0 entropies of the layers, `sum(n H) / 8`."""
  bits = 0.0
  for values in codes.values():
    for code in (-1, 0, 1):
      count = int(np.count_nonzero(values == code))
      bits -= count * math.log2(count / values.size) if count else 0.0
  return bits / 8


def pack(codes: Codes, per_byte: int) -> bytes:
  """The codes of all layers in one stream."""
  flat = np.concatenate([values.ravel() for values in codes.values()]) + 1
  flat = np.pad(flat, (0, -len(flat) % per_byte)).astype(np.uint8)
  base = {4: 4, 5: 3}[per_byte]
  packed = np.zeros(len(flat) // per_byte, np.uint8)
  for digits_of_place in flat.reshape(-1, per_byte).T:
    packed = packed * np.uint8(base) + digits_of_place
  return packed.tobytes()


def compress_brotli(data: bytes) -> bytes:
  """Brotli at its most thorough, with its largest window."""
  return brotli.compress(data, quality=11, lgwin=24)


def compress_zstd(data: bytes) -> bytes:
  """Zstandard at the level of its command line's `-19`."""
  return zstandard.ZstdCompressor(level=19).compress(data)


def compress_xz(data: bytes) -> bytes:
  """LZMA as of the command line's `-9e`."""
  return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


# And how many codes in a byte they are given.
COMPRESSORS = {
  'brotli': (compress_brotli, (5,)),
  'zstd': (compress_zstd, (4, 5)),
  'xz': (compress_xz, (5,)),
}


def compress_packed(codes: Codes) -> dict[str, int]:
  """The fewest bytes that each general compressor makes of the packed codes."""
  packed = {per_byte: pack(codes, per_byte) for per_byte in (4, 5)}
  with futures.ThreadPoolExecutor() as pool:
    found = {
      name: pool.map(compress, [packed[per_byte] for per_byte in wanted])
      for name, (compress, wanted) in COMPRESSORS.items()
    }
    return {name: min(map(len, every)) for name, every in found.items()}


def orbax_bytes(codes: Codes) -> int:
  """The bytes of all files of an Orbax checkpoint of the int8 codes."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'checkpoint')
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, codes)
    return sum(
      os.path.getsize(os.path.join(root, name))
      for root, _, names in os.walk(path)
      for name in names
    )


def compare(name: str, codes: Codes) -> dict[str, Any]:
  """Bytes of the same codes in every form."""
  return {
    'name': name,
    'codes': sum(values.size for values in codes.values()),
    'entropy': entropy_bytes(codes),
    'ours': len(artifact.dumps(make_artifact(codes))),
    **compress_packed(codes),
    'orbax': orbax_bytes(codes),
  }


def make_table(rows: list[dict[str, Any]]) -> str:
  """A Markdown table: bytes of ours, and every form over entropy."""
  heads = ['codes', 'number', 'entropy, bytes', 'ours, bytes']
  heads += ['ours / entropy', 'brotli -q 11', 'zstd -19', 'xz -9e']
  heads += ['Orbax int8']
  cells = []
  for row in rows:
    rivals = [f'{row[k] / row["entropy"]:.3f}' for k in (*COMPRESSORS, 'orbax')]
    cells.append(
      [
        *(row['name'], f'{row["codes"]:,}', f'{row["entropy"]:,.0f}'),
        *(f'{row["ours"]:,}', f'{row["ours"] / row["entropy"]:.4f}', *rivals),
      ]
    )
  return tabulate.tabulate(cells, heads, 'github', disable_numparse=True)


def measure(path: str, rounds: int) -> dict[str, float]:
  """Writes and reads a file on one core, and watches the memory.

  Seconds are medians; `read_peak_bytes` is the most by which reading raises
  the resident memory of the process.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  peak = memory.measure_peak(lambda: artifact.read(path))
  writes, reads = [], []
  for _ in range(rounds):
    started = time.perf_counter()
    found = artifact.read(path)
    reads.append(time.perf_counter() - started)
    started = time.perf_counter()
    artifact.write(f'{path}.copy', found)
    writes.append(time.perf_counter() - started)
    os.unlink(f'{path}.copy')
  return {
    'write_seconds': statistics.median(writes),
    'read_seconds': statistics.median(reads),
    'read_peak_bytes': peak,
  }


def measure_alone(codes: Codes, rounds: int) -> dict[str, float]:
  """`measure` in a new process."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'model.hq')
    artifact.write(path, make_artifact(codes))
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
      return pool.apply(measure, (path, rounds))


def load_trained(path: str) -> Codes:
  """The codes of a trained model; configs/digits.py is trained if need be."""
  if not os.path.exists(path):
    config = digits.get_config()
    train.train(config, os.path.dirname(path))
  return {
    name.removeprefix('params/'): tensor.codes
    for name, tensor in artifact.read(path).tensors.items()
    if isinstance(tensor, qtensors.TernaryTensor)
  }


def main() -> None:
  """Draws, compares and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--model', nargs='+', default=['runs/digits/model.hq'], help='trained ones'
  )
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--zeros', type=float, nargs='+', default=[0.75, 0.85, 0.9]
  )
  arguments = parser.parse_args()
  logging.set_verbosity(logging.WARNING)
  nets = {
    'ResNet-18': get_resnet_shapes(18),
    'ResNet-50': get_resnet_shapes(50),
    'MobileNetV2': get_mobilenet_shapes(),
  }
  rng = np.random.default_rng(arguments.seed)
  groups: dict[str, list[dict[str, Any]]] = {}
  measured = []
  contexts_ns = []
  for group, spread in (('iid', 0.0), ('structured', CHANNEL_SPREAD)):
    for net, shapes in nets.items():
      for zeros in arguments.zeros:
        codes = draw_codes(shapes, zeros, spread, rng)
        row = compare(f'{net}, {zeros:.0%} zeros, {group}', codes)
        groups.setdefault(group, []).append(row)
        if net != 'ResNet-50' and not spread:
          continue
        found = measure_alone(codes, arguments.rounds)
        if net == 'ResNet-50':
          measured.append(found)
        if spread:
          contexts_ns.append(1e9 * found['read_seconds'] / row['codes'])
  for path in arguments.model:
    row = compare(f'trained: {path}', load_trained(path))
    groups.setdefault('trained', []).append(row)
  print(make_table([row for rows in groups.values() for row in rows]))
  worst = {
    f'{group}_over_entropy': max(row['ours'] / row['entropy'] for row in rows)
    for group, rows in groups.items()
  }
  worst |= {
    f'resnet50_{name}': max(found[name] for found in measured)
    for name in measured[0]
  }
  beyond = [row['ours'] - 1.01 * row['entropy'] - 2000 for row in groups['iid']]
  print(
    json.dumps(
      worst
      | {
        'contexts_ns_per_weight_read': max(contexts_ns),
        'iid_most_bytes_beyond_entropy_1_percent_2_kb': max(beyond),
        'resnet50_float32_bytes': 4
        * sum(math.prod(shape) for shape in nets['ResNet-50'].values()),
        'seed': arguments.seed,
        'commit': provenance.get_commit(),
        'hardware': provenance.get_hardware(),
      },
      sort_keys=True,
    )
  )


if __name__ == '__main__':
  main()
