"""ImageNet's archives with tiny images, for the builder of TFDS."""

import io
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LISTS = pathlib.Path(tfds.__file__).parent / 'datasets' / 'imagenet2012'
NUM_CLASSES = 1000


def synsets() -> list[str]:
  """The names of the classes, in the order of the labels."""
  return (_LISTS / 'labels.txt').read_text().split()


def validation_labels(num_images: int) -> list[int]:
  """The labels of so many validation images, in the order of their names.

  The builder gives image i the i-th label of ImageNet's 50,000: the first few
  are not evenly spread over the classes.
  """
  position = {synset: label for label, synset in enumerate(synsets())}
  listed = (_LISTS / 'validation_labels.txt').read_text().split()
  return [position[synset] for synset in listed[:num_images]]


def color(label: int) -> np.ndarray:
  """The colour of a class, `[3]` in 16..241, 25 from that of any other."""
  return 16 + 25 * np.array([label // 100, label // 10 % 10, label % 10])


def label_of(image: bytes) -> int:
  """The class that a JPEG file has the colour of."""
  with Image.open(io.BytesIO(image)) as opened:
    mean = np.asarray(opened).mean(axis=(0, 1))
  digits = np.rint((mean - 16) / 25).astype(int)
  return int(digits @ [100, 10, 1])


def prepare(tmp_path: pathlib.Path, num_test: int = 0) -> pathlib.Path:
  """Prepares such a set as a user does, in the data_dir that it returns.

  It needs TensorFlow. Two images of each class are to train on.
  """
  data_dir, manual_dir = tmp_path / 'data', tmp_path / 'manual'
  manual_dir.mkdir()
  with tarfile.open(manual_dir / 'ILSVRC2012_img_train.tar', 'w') as train:
    for label, synset in enumerate(synsets()):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode='w') as archive:
        for i in range(2):
          _add(archive, f'{synset}_{i}.JPEG', _jpeg(label, i))
      _add(train, f'{synset}.tar', inner.getvalue())
  with tarfile.open(manual_dir / 'ILSVRC2012_img_val.tar', 'w') as archive:
    for i, label in enumerate(validation_labels(NUM_CLASSES)):
      _add(archive, f'ILSVRC2012_val_{i + 1:08d}.JPEG', _jpeg(label, i))
  if num_test:
    with tarfile.open(manual_dir / 'ILSVRC2012_img_test.tar', 'w') as archive:
      for i in range(num_test):
        name = f'test/ILSVRC2012_test_{i + 1:08d}.JPEG'
        _add(archive, name, _jpeg(i % NUM_CLASSES, i))
  done = run_prepare(
    'imagenet2012', f'--data_dir={data_dir}', f'--manual_dir={manual_dir}'
  )
  assert done.returncode == 0, done.stderr
  return data_dir


def run_prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
  """Runs `python -m hq_jax prepare`; no proxy may answer it."""
  environment = {
    k: v for k, v in os.environ.items() if 'proxy' not in k.lower()
  }
  return subprocess.run(
    [sys.executable, '-m', 'hq_jax', 'prepare', *arguments],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def _jpeg(label: int, variant: int) -> bytes:
  # Of several sizes, neither square nor all alike.
  height, width = 24 + 4 * (variant % 3), 40 - 4 * (variant % 2)
  pixels = np.broadcast_to(color(label).astype(np.uint8), (height, width, 3))
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=95)
  return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(content)
  archive.addfile(member, io.BytesIO(content))
