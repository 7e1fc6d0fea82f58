"""The networks of torchvision, where it is installed."""

from typing import Any

import numpy as np

from tests.models.pretrained import states


def import_torchvision() -> Any:
  """Imports torchvision, even one whose compiled operators do not load.

  That one refuses to be imported, for want of two operators that classifiers
  have no use for: they are declared, without being there.
  """
  from torch import library as library_lib

  try:
    import torchvision
  except RuntimeError:
    library = library_lib.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
      library.define(f'{name}(Tensor a, Tensor b, float c) -> Tensor')
    import torchvision
  return torchvision


def build(architecture: str) -> Any:
  """One of its networks, as it is evaluated."""
  models = import_torchvision().models
  return getattr(models, architecture)(num_classes=states.NUM_CLASSES).eval()


def get_shapes(model: Any) -> dict[str, tuple[int, ...]]:
  """The shapes of its state dictionary, by name."""
  return {name: tuple(x.shape) for name, x in model.state_dict().items()}


def compute_logits(model: Any, state: dict[str, np.ndarray]) -> np.ndarray:
  """Its logits `[n, num_classes]` for the images, with these weights."""
  import torch

  model.load_state_dict({n: torch.from_numpy(x) for n, x in state.items()})
  images = np.ascontiguousarray(states.draw_images().transpose(0, 3, 1, 2))
  with torch.no_grad():
    return model(torch.from_numpy(images)).numpy()
