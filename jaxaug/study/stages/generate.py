"""Stage 3: a generative model learns from the real training split only."""
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import console, files, registry, types
from jaxaug.data import images, mixing, pixels
from jaxaug.evaluation import collapse, features, measure
from jaxaug.training import checkpoint, loop, mesh, metrics_log

GRID_COLUMNS = 10
INTERPOLATION = 'interpolation.png'
# Images drawn at a time for the curve.
_DRAWN = 100
# Training images that say what collapse is, at most.
_KNOWN = 2000


class Curve(typing.NamedTuple):
  """What tells the best checkpoint of a training, on the validation split.

  name: of the number, such as 'kd_scattering'; lower is better.
  every: steps between two looks.
  labels: int32 [N], the classes asked for each time.
  score(uint8 [N, H, W, C]) -> (float, {name: float} as `watch` wants them).
  watch: tells of a collapse; None for no such thing.
  names: what the numbers of the watch are called in the logs.
  """
  name: str
  every: int
  labels: np.ndarray
  score: typing.Callable
  watch: collapse.Watch | None
  names: dict[str, str]


def build(spec: types.ImageSpec, where: str, model: str, arguments: dict):
  """Returns the model, its arguments checked against its signature."""
  return registry.build('generators', model, arguments, where, spec)


def curve(eye: features.FeatureExtractor, validation: types.Split, classes: int, *,
          metric: str, every: int, images: int,
          train: types.Split | None = None,
          collapse: dict | None = None) -> Curve | None:
  """Returns the curve; None for `every` 0, or without validation images.

  Args:
    eye: the network that looks.
    validation: what generated images are held against.
    classes: how many there are, all asked for equally often.
    metric: a file of image_metrics/ that needs only what a network sees.
    every, images: steps between looks, and images that each draws.
    train: the training images, for the watch.
    collapse: name -> share, see collapse.Watch; None or zeros for no watch.
  """
  if not every or len(validation.labels) < 2:
    return None
  count = -(-images // _DRAWN) * _DRAWN  # Whole batches, classes mixed in each.
  labels = np.random.Generator(np.random.Philox(0)).permuted(
      np.resize(np.arange(classes, dtype=np.int32), count))
  block, watched = measure.blocks([metric]), any((collapse or {}).values())
  needs = measure.needs(block) | ({'features'} if watched else set())
  real = features.of_array(eye, np.asarray(validation.images), needs)
  watch = _watch(eye, train, validation.labels, real, labels,
                 collapse) if watched else None

  def score(drawn):
    fake = features.of_array(eye, drawn, needs)
    value = measure.rows(block, real, fake, eye.network)[0].measured.value
    return value, watch.measure(fake.features) if watch else {}
  value = next(iter(block[metric].VALUES))
  return Curve(
      measure.named(value, block[metric], eye.network), every, labels, score,
      watch, {name: f'{name}_{eye.network.name}' for name in
              (watch.real if watch else ())})


def _watch(eye, train, validation_labels, validation, asked, shares):
  """Returns the watch, of some training images of each class."""
  rng, labels = np.random.Generator(np.random.Philox(1)), train.labels
  each = max(2, _KNOWN // len(np.unique(labels)))
  rows = np.sort(np.concatenate([
      rng.permutation(np.flatnonzero(labels == k))[:each]
      for k in np.unique(labels)]))
  known = features.of_array(eye, train.images[rows], {'features'})
  return collapse.watch(known.features, labels[rows], validation.features,
                        validation_labels, asked, shares)


def _choice(curve: Curve, model, key):
  """Returns the hook that keeps the variables of the curve's lowest point.

  Not of a look at which the watch found too little; a collapse ends the run.
  """
  sample = jax.jit(model.sample)
  parts = curve.labels.reshape(-1, _DRAWN)

  def look(step, state, memory, writer):
    variables = model.variables(state)
    value, watched = curve.score(np.concatenate([
        pixels.to_uint8(sample(variables, jax.random.fold_in(key, i), labels))
        for i, labels in enumerate(parts)]))
    writer.scalars(step, {curve.name: value} | {
        curve.names[name]: number for name, number in watched.items()})
    memory = dict(memory)
    if curve.watch:
      seen = collapse.follow(curve.watch, memory['watch'], watched)
      memory |= {'watch': seen, 'stop': jnp.int32(
          step if collapse.cause(seen) else 0)}
    low = curve.watch and collapse.low(memory['watch'])
    if value < memory['score'] and not low:
      memory |= {  # A copy: the next step takes the state.
          'score': jnp.float32(value), 'step': jnp.int32(step),
          'variables': jax.tree.map(jnp.copy, variables)}
    return memory
  return loop.Hook(curve.every, look)


def _interpolation(model, spec, key, variables):
  """Returns a grid from one noise to another, a class to a row.

  Normal noise goes along the circle that keeps it as long as it is (White
  2016, "Sampling generative networks"); uniform noise along the line that
  stays in its cube (Radford et al. 2016). One call decodes all: batch norm
  that looks at the batch must see all classes.
  """
  draw = {'normal': jax.random.normal, 'uniform': functools.partial(
      jax.random.uniform, minval=-1, maxval=1)}[model.noise]
  first, last = draw(key, (2, model.z_dim))
  t = np.linspace(0, 1, GRID_COLUMNS, dtype=np.float32)[:, None]
  if model.noise == 'normal':
    z = np.cos(t * np.pi / 2) * first + np.sin(t * np.pi / 2) * last
  else:
    z = (1 - t) * first + t * last
  labels = jnp.repeat(jnp.arange(spec.num_classes), GRID_COLUMNS)
  return images.grid(pixels.to_uint8(jax.jit(model.decode)(
      variables, jnp.tile(z, (spec.num_classes, 1)), labels)), GRID_COLUMNS)


def _grids(folder, name, model, spec, key, every):
  """Returns the hook that shows samples: fixed noise, a class to a row."""
  labels = jnp.repeat(jnp.arange(spec.num_classes), GRID_COLUMNS)
  sample = jax.jit(model.sample)

  def show(step, state, memory, writer):
    picture = images.grid(pixels.to_uint8(
        sample(model.variables(state), key, labels)), GRID_COLUMNS)
    with files.writing(folder):
      images.save_png(folder / 'samples' / f'step_{step:06d}.png', picture)
    writer.image(step, f'samples/{name}', picture)
    return memory
  return loop.Hook(every, show)


def _step(model, bank, key, stride):
  """Returns step(state, (count, index)), which gathers its batches itself."""
  def update(state, count, bank, index, key):
    def one(state, index):
      batch = {'image': bank[0][index], 'label': bank[1][index]}
      return model.step(state, batch, key)
    if stride == 1:
      return one(state, index)
    return loop.repeat(one)(state, count, index)
  compiled = jax.jit(update, donate_argnums=0)
  return lambda state, batch: compiled(state, batch[0], bank, batch[1], key)


def _batches(model, plan, steps, stride, devices):
  """Returns batches(i): the steps that are left, and the images of `stride`."""
  def batches(i):
    count = model.d_steps
    index = np.stack([mixing.batch(plan, k) for k in
                      range(i * count, (i + stride) * count)])
    lead = (stride, count) if stride > 1 else (count,)
    index = index.reshape(*lead, -1)
    return np.int32(steps - i), mesh.shard(devices, index, axis=len(lead))
  return batches


def _memory(curve: Curve | None, model, state) -> dict:
  """Returns what `_choice` remembers, as it is before the first look."""
  if not curve:
    return {}
  memory = {'score': jnp.float32(jnp.inf), 'step': jnp.int32(0),
            'variables': jax.tree.map(jnp.copy, model.variables(state))}
  return memory | ({'watch': collapse.start(curve.watch),
                    'stop': jnp.int32(0)} if curve.watch else {})


def run(folder: files.Folder, *, name: str, spec: types.ImageSpec,
        train: types.Split, train_digest: str,
        model: types.GenerativeModel, steps: int,
        batch_size: int, seed: int, devices, log_every: int, save_every: int,
        sample_every: int, stride: int = 1,
        curve: Curve | None = None) -> dict:
  """Trains `model` and writes its averaged weights; returns the manifest.

  The weights are those of the curve's lowest point, or without a curve the
  last; a collapse ends the training. One call takes up to `stride` steps.
  """
  files.begin(folder.partial, resume=True)
  key_init, key_step, key_grid = jax.random.split(jax.random.key(seed), 3)
  state = mesh.replicate(devices, jax.jit(model.init)(key_init))
  bank = mesh.replicate(devices, (train.images, train.labels))
  if model.adapt:
    state = mesh.replicate(devices, jax.jit(model.adapt)(state, bank[0]))
  plan = mixing.plan(mixing.everything(len(train.labels)), pool_start=0,
                     batch_size=batch_size, seed=(seed,))
  parameters = model.parameters(state)
  with files.writing(folder.partial):
    (folder.partial / 'parameters.txt').write_text(
        metrics_log.overview(jax.eval_shape(model.variables, state))[0])
  console.say(f'generate {name}: {sum(parameters.values()):,} parameters, '
           f'{steps} steps of {model.d_steps} x {batch_size} images')

  stride = loop.stride(stride, log_every, save_every, sample_every,
                       *(curve.every for curve in [curve] if curve))
  hooks = (_grids(folder.partial, name, model, spec, key_grid, sample_every),)
  if curve:  # First: where it ends the run, the others see their last step.
    hooks = (_choice(curve, model, jax.random.fold_in(key_grid, 1)), *hooks)
  state, memory, seconds = loop.run(
      _step(model, bank, key_step, stride),
      _batches(model, plan, steps, stride, devices), state,
      _memory(curve, model, state), steps=steps, folder=folder.partial,
      title=f'generate {name}', log_every=log_every, save_every=save_every,
      hooks=hooks, stride=stride)
  variables = memory.get('variables') or model.variables(state)
  if model.decode:
    with files.writing(folder.partial):
      images.save_png(folder.partial / INTERPOLATION, _interpolation(
          model, spec, jax.random.fold_in(key_grid, 2), variables))
  checkpoint.write_tree(folder.partial / 'variables.npz',
                        jax.device_get(variables))
  manifest = {'parameters': parameters, 'steps': steps,
              'train_digest': train_digest, 'devices': mesh.describe(devices),
              'chosen_step': int(memory.get('step', steps)),
              'curve': curve and curve.name,
              'watched': dict(curve.names) if curve else {},
              'seconds': seconds, **_collapse(memory)}
  if manifest['collapsed']:
    console.say(f'generate {name}: {collapse.words(manifest)}')
  files.finish(folder.partial, folder.final, manifest)
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  files.remove(folder.final / 'checkpoints')
  return manifest


def _collapse(memory: dict) -> dict:
  """Returns 'collapsed_at', a step or None, and of which number, or None."""
  number = collapse.cause(memory.get('watch', {}))
  if not number:
    return {'collapsed_at': None, 'collapsed': None}
  seen = memory['watch'][number]
  return {'collapsed_at': int(memory['stop']), 'collapsed': {
      'number': number, 'best': float(seen['best']),
      'now': float(seen['now'])}}


def read(folder: files.Folder, model: types.GenerativeModel):
  """Returns the variables that `run` wrote, for `model.sample`."""
  like = jax.eval_shape(lambda: model.variables(model.init(jax.random.key(0))))
  return checkpoint.read_tree(folder.final / 'variables.npz', like)
