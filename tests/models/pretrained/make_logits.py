"""Asks torchvision for what the tests compare with, and writes logits.json.

It needs PyTorch and torchvision, which are no dependencies of the tests:

  pip install torch torchvision
  python -m tests.pretrained.make_logits
"""

import importlib.metadata
import json

from tests.models.pretrained import states
from tests.models.pretrained import torchvision_models

ARCHITECTURES = ('resnet18', 'resnet50', 'mobilenet_v2')


def main() -> None:
  content = {
    name: importlib.metadata.version(name) for name in ('torch', 'torchvision')
  }
  for architecture in ARCHITECTURES:
    model = torchvision_models.build(architecture)
    shapes = torchvision_models.get_shapes(model)
    logits = torchvision_models.compute_logits(model, states.draw_state(shapes))
    content[architecture] = {
      'shapes': shapes,
      'logits': [[float(f'{x:.9g}') for x in row] for row in logits],
    }
  # A line for each, so that a difference can be read.
  lines = [f'{json.dumps(k)}: {json.dumps(x)}' for k, x in content.items()]
  text = '{\n' + ',\n'.join(lines) + '\n}\n'
  states.RECORDED.write_text(text, encoding='utf-8')


if __name__ == '__main__':
  main()
