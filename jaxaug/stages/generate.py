"""Stage 3: a generative model learns from the real training split only."""
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug import (
  artefacts,
  checkpoint,
  images,
  logs,
  loop,
  measure,
  mesh,
  mixing,
  registry,
  types,
)

GRID_COLUMNS = 10
# Images drawn at a time for the curve.
_DRAWN = 100


class Curve(typing.NamedTuple):
  """What tells the best checkpoint of a training, on the validation split.

  name: of the number, such as 'kd_scattering'; lower is better.
  every: steps between two looks.
  labels: int32 [N], the classes asked for each time.
  score(uint8 [N, H, W, C]) -> float.
  """
  name: str
  every: int
  labels: np.ndarray
  score: typing.Callable


def build(spec: types.ImageSpec, where: str, model: str, arguments: dict):
  """Returns the model, its arguments checked against its signature."""
  return registry.build('generators', model, arguments, where, spec)


def curve(eye: measure.Eye, validation: types.Split, classes: int, *,
          metric: str, every: int, images: int) -> Curve | None:
  """Returns the curve; None for `every` 0, or without validation images.

  Args:
    eye: the network that looks.
    validation: what generated images are held against.
    classes: how many there are, all asked for equally often.
    metric: a file of image_metrics/ that needs only what a network sees.
    every, images: steps between looks, and images that each draws.
  """
  if not every or len(validation.labels) < 2:
    return None
  block = measure.blocks([metric])
  real = measure.of_array(eye, np.asarray(validation.images),
                          measure.needs(block))
  def score(drawn):
    fake = measure.of_array(eye, drawn, measure.needs(block))
    return measure.rows(block, real, fake, eye.extractor)[0].measured.value
  count = -(-images // _DRAWN) * _DRAWN  # Whole batches, classes mixed in each.
  labels = np.random.Generator(np.random.Philox(0)).permuted(
      np.resize(np.arange(classes, dtype=np.int32), count))
  value = next(iter(block[metric].VALUES))
  return Curve(measure.named(value, block[metric], eye.extractor), every,
               labels, score)


def _choice(curve: Curve, model, key):
  """Returns the hook that keeps the variables of the curve's lowest point."""
  sample = jax.jit(model.sample)
  parts = curve.labels.reshape(-1, _DRAWN)

  def look(step, state, memory, writer):
    variables = model.variables(state)
    value = curve.score(np.concatenate([
        images.to_uint8(sample(variables, jax.random.fold_in(key, i), labels))
        for i, labels in enumerate(parts)]))
    writer.scalars(step, {curve.name: value})
    if value < memory['score']:  # A copy: the next step takes the state.
      memory = {'score': jnp.float32(value), 'step': jnp.int32(step),
                'variables': jax.tree.map(jnp.copy, variables)}
    return memory
  return loop.Hook(curve.every, look)


def _sampler(model, spec, key):
  """Returns grid(variables): fixed noise, a class to a row."""
  labels = jnp.repeat(jnp.arange(spec.num_classes), GRID_COLUMNS)
  sample = jax.jit(model.sample)
  return lambda variables: images.grid(
      images.to_uint8(sample(variables, key, labels)), GRID_COLUMNS)


def run(folder: artefacts.Folder, *, name: str, spec: types.ImageSpec,
        train: types.Split, train_digest: str,
        model: types.GenerativeModel, steps: int,
        batch_size: int, seed: int, devices, log_every: int, save_every: int,
        sample_every: int, stride: int = 1,
        curve: Curve | None = None) -> dict:
  """Trains `model` and writes its averaged weights; returns the manifest.

  The weights are those of the curve's lowest point, or without a curve the
  last. One call takes up to `stride` steps.
  """
  artefacts.begin(folder.partial, resume=True)
  key = jax.random.key(seed)
  key_init, key_step, key_grid = jax.random.split(key, 3)
  state = mesh.replicate(devices, jax.jit(model.init)(key_init))
  parameters = model.parameters(state)
  bank = mesh.replicate(devices, (train.images, train.labels))
  plan = mixing.plan(mixing.everything(len(train.labels)), pool_start=0,
                     batch_size=batch_size, seed=(seed,))

  stride = loop.stride(stride, log_every, save_every, sample_every,
                       *(curve.every for curve in [curve] if curve))
  def update(state, count, bank, index, key):
    def one(state, index):
      batch = {'image': bank[0][index], 'label': bank[1][index]}
      return model.step(state, batch, key)
    if stride == 1:
      return one(state, index)
    return loop.repeat(one)(state, count, index)
  compiled = jax.jit(update, donate_argnums=0)

  def batches(i):
    count = model.d_steps
    index = np.stack([mixing.batch(plan, k) for k in
                      range(i * count, (i + stride) * count)])
    lead = (stride, count) if stride > 1 else (count,)
    index = index.reshape(*lead, -1)
    return np.int32(steps - i), mesh.shard(devices, index, axis=len(lead))

  grid = _sampler(model, spec, key_grid)
  def show(step, state, memory, writer):
    picture = grid(model.variables(state))
    with artefacts.writing(folder.partial):
      images.save_png(folder.partial / 'samples' / f'step_{step:06d}.png',
                      picture)
    writer.image(step, f'samples/{name}', picture)
    return memory

  with artefacts.writing(folder.partial):
    (folder.partial / 'parameters.txt').write_text(
        logs.overview(jax.eval_shape(model.variables, state))[0])
  total = sum(parameters.values())
  logs.say(f'generate {name}: {total:,} parameters, {steps} steps of '
           f'{model.d_steps} x {batch_size} images')
  hooks, memory = [loop.Hook(sample_every, show)], {}
  if curve:
    hooks.append(_choice(curve, model, jax.random.fold_in(key_grid, 1)))
    memory = {'score': jnp.float32(jnp.inf), 'step': jnp.int32(0),
              'variables': jax.tree.map(jnp.copy, model.variables(state))}
  state, memory, seconds = loop.run(
      lambda state, batch: compiled(state, batch[0], bank, batch[1], key_step),
      batches, state, memory, steps=steps, folder=folder.partial,
      title=f'generate {name}', log_every=log_every, save_every=save_every,
      hooks=tuple(hooks), stride=stride)
  checkpoint.write_tree(
      folder.partial / 'variables.npz',
      jax.device_get(memory.get('variables') or model.variables(state)))
  manifest = {'parameters': parameters, 'steps': steps,
              'train_digest': train_digest,
              'chosen_step': int(memory.get('step', steps)),
              'curve': curve and curve.name, 'seconds': seconds}
  artefacts.finish(folder.partial, folder.final, manifest)
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  artefacts.remove(folder.final / 'checkpoints')
  return manifest


def read(folder: artefacts.Folder, model: types.GenerativeModel):
  """Returns the variables that `run` wrote, for `model.sample`."""
  like = jax.eval_shape(lambda: model.variables(model.init(jax.random.key(0))))
  return checkpoint.read_tree(folder.final / 'variables.npz', like)
