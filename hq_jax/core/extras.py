"""Packages that only some of the library needs, and what installs them."""

# What is not here belongs to the extra 'train'.
_EXTRAS: dict[str, str | None] = {
  **dict.fromkeys(('chex', 'constriction', 'jax', 'jaxlib', 'numpy')),
  **dict.fromkeys(('optax', 'scipy', 'tabulate')),
  **dict.fromkeys(('prometheus_client', 'python_multipart'), 'serve'),
  **dict.fromkeys(('starlette', 'uvicorn'), 'serve'),
  'libtpu': 'tpu',
  'matplotlib': 'report',
  'onnx': 'export',
  'onnxruntime': 'predict',
  'PIL': 'predict',
  'safetensors': 'export',
  'tensorboardX': 'tensorboard',
  'tensorflow': 'prepare',
  'torch': 'torch',
  'wandb': 'wandb',
}


def explain(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
  """Says in one line which extra installs what is missing.

  >>> missing = ModuleNotFoundError(name='flax.linen')
  >>> print(explain(missing, 'training'))
  training needs flax, which is not installed: pip install 'hq_jax[train]'
  """
  package = (error.name or '').partition('.')[0]
  if package in ('', 'hq_jax'):
    return error
  extra = _EXTRAS.get(package, 'train')
  wanted = f"'hq_jax[{extra}]'" if extra else 'hq_jax'
  return ModuleNotFoundError(
    f'{what} needs {package}, which is not installed: pip install {wanted}',
    name=error.name,
  )
