"""A generative model learns from the real training split only."""
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import console, errors, files, registry, types
from jaxaug.data import images, mixing, origins, pixels
from jaxaug.evaluation import collapse
from jaxaug.evaluation import curve as curves
from jaxaug.study import schema
from jaxaug.study import tasks as study_tasks
from jaxaug.training import checkpoint, loop, mesh, metrics_log

# A change of what this stage computes belongs into its key.
VERSION = 4
GRID_COLUMNS = 10
_INTERPOLATION = 'interpolation.png'


class Trained(typing.NamedTuple):
  """What a finished training left.

  variables() -> what `model.sample` wants. records: of metrics.jsonl.
  interpolation() -> uint8 [H, W, C], from one noise to another, a class to a
  row; None for a model without a latent space.
  """
  manifest: dict
  model: types.GenerativeModel
  variables: typing.Callable
  records: list[dict]
  interpolation: typing.Callable


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each of config.generators."""
  del made
  return [_task(study, fold, name) for name in study.config['generators']]


def _task(study, fold, name: str) -> study_tasks.Task:
  config, block = study.config, study.config['generators'][name]
  model, train = study.models[name], fold.splits.train
  if block['batch_size'] > len(train.labels):
    raise errors.InputError(
        f'config.generators.{name}.batch_size: {block["batch_size"]}; expected '
        f'at most {len(train.labels)}, the number of training images.')
  seed, machine = study.seed('generator', name), study.machine
  with registry.within(f'config.generators.{name}'):
    _feed(model, train.labels, fold.splits.class_names, block['batch_size'],
          seed)
  chosen_by, find_curve = None, lambda: None
  if config['curve']['every']:
    classes = origins.made(model, study.spec.num_classes)
    chosen_by = [config['curve'], config['collapse'],
                 study.extractor.identity, fold.digests('validation')]
    find_curve = functools.partial(
        curves.make, study.extractor, _of(fold.splits.validation, classes),
        classes, train=_of(train, classes), shares=config['collapse'],
        **config['curve'])
  folder = study.folder('generate', name, [
      VERSION, study.spec, fold.digests('train'), block, seed,
      config['log_every'], chosen_by])

  def work():
    run(folder, name=fold.label(name), spec=study.spec, train=train,
        train_digest=fold.digests('train')[0], model=model,
        class_names=fold.splits.class_names,
        steps=block['steps'], batch_size=block['batch_size'], seed=seed,
        devices=machine.devices, log_every=config['log_every'],
        save_every=machine.save_every, sample_every=machine.sample_every,
        steps_per_call=machine.steps_per_call, curve=find_curve())
  return study_tasks.Task('generate', name, folder, work,
                          functools.partial(read, folder, model, study.spec,
                                            seed),
                          block['steps'],
                          size=functools.partial(_size, model),
                          where=f'config.generators.{name}')


def _of(split: types.Split, classes: tuple[int, ...]) -> types.Split:
  """Returns the images of these classes."""
  rows = np.isin(split.labels, classes)
  return split if rows.all() else types.Split(*(x[rows] for x in split))


def _size(model) -> study_tasks.Size:
  state = jax.eval_shape(model.init, jax.random.key(0))
  weights = checkpoint.size(jax.eval_shape(model.variables, state))
  return study_tasks.Size(weights, checkpoint.room(
      checkpoint.size(state) + weights))


def models(config: dict, spec: types.ImageSpec) -> dict:
  """Returns name -> types.GenerativeModel of every block, arguments checked.

  One whose rule changes on the way is told how long the training is.
  """
  def build(name, block):
    given, where = schema.arguments(block), f'config.generators.{name}'
    found = registry.find('generators', block['model'], f'{where}.model')
    if 'steps' in registry.arguments(found.build):
      given['steps'] = block['steps']
    return registry.build('generators', block['model'], given, where, spec)
  return {name: build(name, block)
          for name, block in config['generators'].items()}


class _Keys(typing.NamedTuple):
  """Of jax.random: a training's, and those of what it shows."""
  init: jax.Array
  step: jax.Array
  grid: jax.Array
  curve: jax.Array
  between: jax.Array


def _keys(seed: int) -> _Keys:
  init, step, grid = jax.random.split(jax.random.key(seed), 3)
  return _Keys(init, step, grid, jax.random.fold_in(grid, 1),
               jax.random.fold_in(grid, 2))


def _interpolation(model, spec, seed, variables):
  """Returns a grid from one noise to another, a class to a row.

  Normal noise goes along the circle that keeps it as long as it is (White
  2016, "Sampling generative networks"); uniform noise along the line that
  stays in its cube (Radford et al. 2016). One call decodes all: batch norm
  that looks at the batch must see all classes.
  """
  draw = {'normal': jax.random.normal, 'uniform': functools.partial(
      jax.random.uniform, minval=-1, maxval=1)}[model.noise]
  first, last = draw(_keys(seed).between, (2, model.z_dim))
  t = np.linspace(0, 1, GRID_COLUMNS, dtype=np.float32)[:, None]
  if model.noise == 'normal':
    z = np.cos(t * np.pi / 2) * first + np.sin(t * np.pi / 2) * last
  else:
    z = (1 - t) * first + t * last
  labels = jnp.repeat(jnp.arange(spec.num_classes), GRID_COLUMNS)
  return images.grid(pixels.to_uint8(jax.jit(model.decode)(
      variables, jnp.tile(z, (spec.num_classes, 1)), labels)), GRID_COLUMNS)


def _grids(folder, name, model, classes, train, draw, key, every):
  """Returns the hook that shows samples: fixed noise, a class to a row.

  Real images that they start from stand in a row above them.
  """
  labels = jnp.repeat(jnp.asarray(classes), GRID_COLUMNS)
  draw = jax.jit(draw)

  def show(step, state, memory, writer):
    samples, starts = draw(model.variables(state), key, labels)
    rows = [pixels.to_uint8(samples).reshape(-1, GRID_COLUMNS,
                                             *samples.shape[1:])]
    if model.origins:
      rows.insert(0, train.images[np.asarray(starts)].reshape(rows[0].shape))
    picture = images.grid(np.stack(rows, 1).reshape(-1, *samples.shape[1:]),
                          GRID_COLUMNS)
    with files.writing(folder):
      images.save_png(folder / 'samples' / f'step_{step:06d}.png', picture)
    writer.image(step, f'samples/{name}', picture)
    return memory
  return loop.Hook(every, show)


def _step(model, bank, key, several: bool):
  """Returns step(state, (number, count, index)), which gathers its batches.

  It goes by the rule of its phase.
  """
  def compiled(rule):
    def update(state, count, bank, index, key):
      def one(state, index):
        batch = {'image': bank[0][index], 'label': bank[1][index]}
        return rule(state, batch, key)
      if several:
        return loop.repeat(one)(state, count, index)
      return one(state, index)
    return jax.jit(update, donate_argnums=0)
  rules = {0: compiled(model.step)} | {
      phase.first: compiled(phase.step) for phase in model.phases}
  begins = {phase.first: jax.jit(phase.begin) for phase in model.phases}

  def step(state, batch):
    number, count, index = batch
    if number in begins:
      state = begins[number](state, *bank)
    rule = rules[max(first for first in rules if first <= number)]
    return rule(state, count, bank, index, key)
  return step


def _feed(model, labels, class_names, batch_size: int, seed: int):
  """Returns batch(i) -> positions int32 [..., B], see types.GenerativeModel."""
  if model.feed:
    return model.feed(labels, class_names, batch_size, seed)
  plan = mixing.plan(mixing.everything(len(labels)), pool_start=0,
                     batch_size=batch_size, seed=(seed,))
  def batch(i):
    return np.stack([mixing.batch(plan, k) for k in range(
        i * model.d_steps, (i + 1) * model.d_steps)])
  return batch


def _batches(feed, steps, calls: int, devices):
  """Returns batches(i): the number of the step, the steps that are left, and
  the images of `calls` steps."""
  def batches(i):
    index = np.stack([feed(k) for k in range(i, i + calls)])
    index = index if calls > 1 else index[0]
    return i, np.int32(steps - i), mesh.shard(devices, index,
                                              axis=index.ndim - 1)
  return batches


def run(folder: files.Folder, *, name: str, spec: types.ImageSpec,
        train: types.Split, train_digest: str,
        model: types.GenerativeModel, steps: int,
        batch_size: int, seed: int, devices, log_every: int, save_every: int,
        sample_every: int, steps_per_call: int = 1,
        curve: curves.Curve | None = None,
        class_names: tuple[str, ...] = ()) -> dict:
  """Trains `model` and writes its averaged weights; returns the manifest.

  The weights are those of the curve's lowest point, or without a curve the
  last; a collapse ends the training.
  """
  files.begin(folder.partial, resume=True)
  keys = _keys(seed)
  state = mesh.replicate(devices, jax.jit(model.init)(keys.init))
  bank = mesh.replicate(devices, (train.images, train.labels))
  if model.adapt:
    state = mesh.replicate(devices, jax.jit(model.adapt)(state, *bank))
  feed = _feed(model, np.asarray(train.labels), class_names, batch_size, seed)
  draw = origins.sampler(model, train, spec.num_classes)
  parameters = model.parameters(state)
  with files.writing(folder.partial):
    (folder.partial / 'parameters.txt').write_text(
        metrics_log.overview(jax.eval_shape(model.variables, state))[0])
  console.say(f'generate {name}: {sum(parameters.values()):,} parameters, '
              f'{steps} steps of {model.d_steps} x {batch_size} images')

  due = [log_every, save_every, sample_every]
  hooks, best = [_grids(
      folder.partial, name, model, origins.made(model, spec.num_classes), train,
      draw, keys.grid, sample_every)], {}
  if curve:  # First: where it ends the run, the others see their last step.
    hooks.insert(0, curves.hook(curve, model, draw, keys.curve))
    best = curves.start(curve, model, state)
    due.append(curve.every)
  calls = loop.whole_calls(steps_per_call, *due,
                           *(phase.first for phase in model.phases))
  state, best, seconds = loop.run(
      _step(model, bank, keys.step, calls > 1),
      _batches(feed, steps, calls, devices), state, best, steps=steps,
      folder=folder.partial, title=f'generate {name}', log_every=log_every,
      save_every=save_every, hooks=tuple(hooks), steps_per_call=calls)
  variables = jax.device_get(best.get('variables') or model.variables(state))
  loop.check_finite(f'generate {name}', variables, steps)
  if model.decode:
    with files.writing(folder.partial):
      images.save_png(folder.partial / _INTERPOLATION,
                      _interpolation(model, spec, seed, variables))
  checkpoint.write_tree(folder.partial / 'variables.npz', variables)
  manifest = {'parameters': parameters, 'steps': steps,
              'train_digest': train_digest, 'devices': mesh.describe(devices),
              'chosen_step': int(best.get('step', steps)),
              'curve': curve and curve.name,
              'watched': dict(curve.names) if curve else {},
              'seconds': seconds, **curves.collapsed(best)}
  if manifest['collapsed']:
    console.say(f'generate {name}: {collapse.words(manifest)}')
  files.finish(folder.partial, folder.final, manifest)
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  files.remove(folder.final / 'checkpoints')
  return manifest


def read(folder: files.Folder, model: types.GenerativeModel,
         spec: types.ImageSpec, seed: int) -> Trained:
  """Returns what `run` left, which got the same `model`, `spec` and `seed`."""
  def variables():
    like = jax.eval_shape(
        lambda: model.variables(model.init(jax.random.key(0))))
    return checkpoint.read_tree(folder.final / 'variables.npz', like)
  def interpolation():
    if not model.decode:
      return None
    picture = folder.final / _INTERPOLATION
    if not files.intact(folder.final, _INTERPOLATION):
      files.remove(picture)
      with files.replacing(picture) as f:
        images.write_png(f, _interpolation(model, spec, seed, variables()))
      files.include(folder.final, _INTERPOLATION)
    return images.decode(picture)

  return Trained(files.manifest(folder.final), model, variables,
                 metrics_log.read(folder.final), interpolation)
