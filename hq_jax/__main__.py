"""The commands: `python -m hq_jax COMMAND`, or `hq-jax COMMAND`."""

import argparse
from collections.abc import Sequence
import os
import sys
from typing import NoReturn

from hq_jax.inference.server import settings
from hq_jax.runtime import address_space
from hq_jax.runtime import terminal

_PATH = os.path.expanduser  # As the shell does not in --output=~/x.
_INSPECT = """\
Prints what an .hq file holds and where its bytes go, from the file alone.

  ratio    float32 bytes of all parameters and statistics of the model, over
           the bytes of the file; a folded batch norm stands for the four
           vectors scale, bias, mean and var
  zeros    of all entries of the tensor
  entropy  order 0, bits per ternary code or per index of a codeword
  bits     per entry of the tensor, 8 bytes / size
  bytes    codes, indices or values, codewords, scales, and the table of the
           codes' model; what tensors share is split in proportion; they add up
           to the file

Every byte of the file is verified. Exit status: 0; 2 and one line on stderr
where the file cannot be read or is not a good one."""
_PREDICT = """\
Prints the most probable classes of image files, such as JPEG, PNG, WebP or
TIFF, and of those in folders, however deep.

With --json a line for each image, a JSON object:
  {"image": "a.png", "predictions": [{"class": "cat", "probability": 0.9}, ...]}
  {"image": "b.png", "error": "b.png: no such file"}

Exit status: 0; 2 where the model or an image cannot be read: each is named on
stderr in one line, and the other images are answered."""
_EXPORT = """\
Converts an .hq file for other tools, and says how large the new file is.

  onnx       for onnxruntime and what else reads ONNX (extra 'export')
  torch      a state dictionary for PyTorch, in torchvision's names, as
             .safetensors (extra 'export'); hq_jax.export.to_torch makes the
             module
  stablehlo  for JAX alone: packed weights and the network in one file
  web        a folder for any web server: a page that classifies pictures in the
             browser, from the .hq file itself; npm downloads onnxruntime-web

The options weights, activations, calibrate and raw_input are those of onnx.
Exit status: 0; 2 and one line on stderr, and no file, where it cannot be."""
_PREPARE = """\
Downloads a data set of TFDS and writes it as files that training reads without
TensorFlow and without a network.

A process that is killed leaves a folder incomplete.* behind, which may be
deleted. Exit status: 0, also where the set is prepared already; 2 and one line
on stderr where it cannot be prepared; TensorFlow adds lines of its own."""

_SERVE = """\
Answers over HTTP what images show: a page at /, POST /predict for image files,
the Open Inference Protocol V2 below /v2, /health, and /metrics for Prometheus.

It listens on this machine alone, unless --host says otherwise, knows no
passwords and does not encrypt. Prints one line once it answers. Exit status: 0
after SIGTERM or SIGINT, when what was in flight is answered; 2 and one line on
stderr where the file or a setting is not a good one, or the port is taken."""

_SERVE_FLAGS = {
  'host': 'the address to listen on, 0.0.0.0 for all',
  'port': 'the port, 0 for a free one',
  'name': 'of the model in the paths below /v2; default: the name of the file',
  'max_batch_size': 'images that the network takes at once',
  'max_wait_ms': 'that an image waits for others',
  'max_queue': 'images that are taken and not answered; then status 503',
  'max_body_mb': 'of one request; then status 413',
  'max_pending_mb': 'of all requests not answered; then status 503',
  'max_megapixels': 'of one image; then status 413',
  'timeout_seconds': 'for a request to come, and for its answer',
  'num_threads': 'that decode images; default: one for each core',
}


class _Parser(argparse.ArgumentParser):
  """Leaves errors to its caller."""

  def error(self, message: str) -> NoReturn:
    raise ValueError(f'{message}; {self.prog} --help tells more')


def _make_parser() -> argparse.ArgumentParser:
  parser = _Parser(prog='hq-jax', description=__doc__, allow_abbrev=False)
  commands = parser.add_subparsers(metavar='COMMAND', required=True)

  def add(name, summary, description=None):
    return commands.add_parser(
      name,
      help=summary,
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  # These two read their own arguments, see `main`.
  add('train', 'trains, compresses and reports; as python -m hq_jax.main')
  add('launch', 'starts a run in several processes, or on other machines')
  inspect = add('inspect', 'prints what an .hq file holds', _INSPECT)
  inspect.add_argument('file', metavar='FILE', type=_PATH, help='an .hq file')
  inspect.add_argument(
    '--json', action='store_true', help='one JSON object with everything'
  )
  inspect.set_defaults(run=_inspect)
  predict = add('predict', 'says what images show', _PREDICT)
  predict.add_argument('model', metavar='MODEL', type=_PATH, help='an .hq file')
  predict.add_argument(
    'images',
    metavar='IMAGE',
    nargs='+',
    type=_PATH,
    help='a file, or a folder of them',
  )
  predict.add_argument(
    '--top',
    type=int,
    default=5,
    metavar='N',
    help='how many classes to list; default: 5',
  )
  predict.add_argument(
    '--json', action='store_true', help='one JSON object a line'
  )
  _add_engine(predict)
  predict.set_defaults(run=_predict)
  export = add('export', 'converts an .hq file for other tools', _EXPORT)
  export.add_argument('model', metavar='MODEL', type=_PATH, help='an .hq file')
  export.add_argument(
    '--to',
    required=True,
    metavar='FORMAT',
    help='onnx, torch, stablehlo or web',
  )
  export.add_argument(
    '--output',
    metavar='PATH',
    type=_PATH,
    help='default: MODEL with the ending of the format',
  )
  export.add_argument(
    '--force', action='store_true', help='replaces a file that exists'
  )
  export.add_argument(
    '--weights',
    metavar='KIND',
    help='int8 (the default), int2 or float32: how kernels of codes are stored',
  )
  export.add_argument(
    '--activations',
    metavar='KIND',
    help='float32 (the default), or int8 for what layers pass on, too',
  )
  export.add_argument(
    '--calibrate',
    metavar='PATH',
    type=_PATH,
    nargs='+',
    help='images, or folders of them, which show the ranges of int8'
    ' activations; default: the ranges in MODEL',
  )
  export.add_argument(
    '--raw_input',
    action='store_true',
    default=None,
    help='takes uint8 pixels, and normalizes them itself',
  )
  export.add_argument(
    '--runtime',
    metavar='DIR',
    type=_PATH,
    help='of web: the npm package onnxruntime-web, unpacked; default: npm pack',
  )
  export.set_defaults(run=_export)
  prepare = add('prepare', 'prepares a data set of TFDS', _PREPARE)
  prepare.add_argument(
    'name',
    metavar='NAME',
    help='such as cifar10, imagenet_resized/16x16 or cifar10:3.0.2; any set'
    ' that has one image and one label, see'
    ' https://www.tensorflow.org/datasets/catalog',
  )
  prepare.add_argument(
    '--data_dir',
    metavar='DIR',
    type=_PATH,
    help='holds the data sets; default: TFDS_DATA_DIR, ~/tensorflow_datasets',
  )
  prepare.add_argument(
    '--manual_dir',
    metavar='DIR',
    type=_PATH,
    help='holds what was downloaded by hand; default: downloads/manual there',
  )
  prepare.set_defaults(run=_prepare)
  serve = add('serve', 'answers over HTTP what images show', _SERVE)
  serve.add_argument('file', metavar='FILE', type=_PATH, help='an .hq file')
  _add_engine(serve)
  defaults = settings.Settings()
  for field, text in _SERVE_FLAGS.items():
    default = getattr(defaults, field)
    serve.add_argument(
      f'--{field}',
      metavar=type(default).__name__.upper(),
      type=type(default),
      default=default,
      help=f'{text}; default: {default}' if default else text,
    )
  serve.set_defaults(run=_serve)
  return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--engine',
    metavar='NAME',
    help='onnxruntime or jax; default: the first of them that is installed',
  )
  parser.add_argument(
    '--activations',
    metavar='TYPE',
    help='int8 or float32; default: int8 with onnxruntime and a file that has'
    ' their ranges',
  )


def _inspect(arguments: argparse.Namespace) -> str:
  from hq_jax.artifact import inspect

  found = inspect.describe_file(arguments.file)
  return (inspect.format_json if arguments.json else inspect.format_text)(found)


def _predict(arguments: argparse.Namespace) -> int:
  from hq_jax.inference import predict

  return predict.predict_files(
    arguments.model,
    arguments.images,
    top=arguments.top,
    as_json=arguments.json,
    engine=arguments.engine,
    activations=arguments.activations,
  )


def _export(arguments: argparse.Namespace) -> str:
  from hq_jax.inference.export import command

  names = 'weights', 'activations', 'calibrate', 'raw_input', 'runtime'
  options = {name: getattr(arguments, name) for name in names}
  return command.export_file(
    arguments.model,
    arguments.to,
    output=arguments.output,
    force=arguments.force,
    options={name: x for name, x in options.items() if x is not None},
  )


def _prepare(arguments: argparse.Namespace) -> str:
  from hq_jax.data import prepare

  try:
    return prepare.prepare_and_describe(
      arguments.name,
      arguments.data_dir,
      arguments.manual_dir,
      show_progress=sys.stderr is not None and sys.stderr.isatty(),
    )
  except ValueError as error:  # What TFDS says may have several lines.
    raise ValueError(' '.join(str(error).split())) from error


def _serve(arguments: argparse.Namespace) -> int:
  from hq_jax.inference.server import serving

  given = {field: getattr(arguments, field) for field in _SERVE_FLAGS}
  wanted = settings.Settings(**given)
  return serving.serve(
    arguments.file,
    wanted,
    engine=arguments.engine,
    activations=arguments.activations,
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command and returns the exit status."""
  argv = sys.argv[1:] if argv is None else argv
  if argv[:1] == ['train']:
    from hq_jax import main as train

    return train.run(['hq-jax train', *argv[1:]])
  if argv[:1] == ['launch']:
    from hq_jax.launch import cli

    return cli.main(argv[1:])
  try:
    arguments = _make_parser().parse_args(argv)
    address_space.check(address_space.COMMAND_BYTES)
    found = arguments.run(arguments)
  except ModuleNotFoundError as error:
    from hq_jax.core import extras

    return terminal.refuse(str(extras.explain(error, f'hq-jax {argv[0]}')))
  except (OSError, ValueError) as error:
    return terminal.refuse(str(error))
  except MemoryError as error:
    return terminal.refuse(f'it does not fit in memory ({error})')
  return terminal.show(found) if isinstance(found, str) else found


if __name__ == '__main__':
  sys.exit(main())
