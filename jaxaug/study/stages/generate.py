"""A generative model learns from the real training split only.

One that learns from a single image is a task for each representative of a
class; several of these train in one program where that pays.
"""
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import console, errors, files, registry, types
from jaxaug.data import images, mixing, origins, pixels, splits
from jaxaug.evaluation import collapse
from jaxaug.evaluation import curve as curves
from jaxaug.study import schema, selection
from jaxaug.study import tasks as study_tasks
from jaxaug.training import bank as banks
from jaxaug.training import checkpoint, fit, loop, mesh, metrics_log

# A change of what this stage computes belongs into its key.
VERSION = 6
GRID_COLUMNS = 10
_INTERPOLATION = 'interpolation.png'
_SCORED = 200   # Images that a critic looks at in one call.


class Trained(typing.NamedTuple):
  """What a finished training left.

  variables() -> what `model.sample` wants. records: of metrics.jsonl.
  interpolation() -> uint8 [H, W, C], from one noise to another, a class to a
  row; None for a model without a latent space. score(images uint8 [N, H, W, C],
  labels int [N]) -> float32 [N], by the model's critic.
  """
  manifest: dict
  model: types.GenerativeModel
  variables: typing.Callable
  records: list[dict]
  interpolation: typing.Callable
  score: typing.Callable


class Job(typing.NamedTuple):
  """One training: where it goes, its name, what it learns from."""
  folder: files.Folder
  name: str
  train: types.Split
  train_digest: str
  seed: int


class _How(typing.NamedTuple):
  """What all trainings of a study share; see the config."""
  devices: typing.Any
  log_every: int
  save_every: int
  sample_every: int
  steps_per_call: int = 1


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each of config.generators, or for each of its images."""
  out = []
  for name, block in study.config['generators'].items():
    if study.models[name].per_image:
      out += _of_images(study, fold, name,
                        made['represent'][block['representatives']])
    else:
      out.append(_task(study, fold, name))
  return out


def of(name: str, made: dict) -> list[study_tasks.Task]:
  """Returns the tasks of one of config.generators."""
  return [task for task in made['generate'].values()
          if task.where == f'config.generators.{name}']


def _how(study) -> _How:
  machine = study.machine
  return _How(machine.devices, study.config['log_every'], machine.save_every,
              machine.sample_every, machine.steps_per_call)


def _task(study, fold, name: str) -> study_tasks.Task:
  config, block = study.config, study.config['generators'][name]
  model, train = study.models[name], fold.splits.train
  if block['batch_size'] > len(train.labels):
    raise errors.InputError(
        f'config.generators.{name}.batch_size: {block["batch_size"]}; expected '
        f'at most {len(train.labels)}, the number of training images.')
  seed = study.seed('generator', name)
  with registry.within(f'config.generators.{name}'):
    _feed(model, train.labels, fold.splits.class_names, block['batch_size'],
          seed)
  chosen_by, find_curve = None, lambda: None
  if config['curve']['every']:
    classes = origins.made(model, study.spec.num_classes)
    chosen_by = [config['curve'], config['collapse'],
                 study.extractor.identity, fold.digests('validation')]
    find_curve = functools.partial(
        curves.make, study.extractor,
        splits.of_classes(fold.splits.validation, classes), classes,
        train=splits.of_classes(train, classes), shares=config['collapse'],
        **config['curve'])
  folder = study.folder('generate', name, [
      VERSION, study.spec, fold.digests('train'), block, seed,
      config['log_every'], chosen_by])

  def work():
    run(folder, name=fold.label(name), spec=study.spec, train=train,
        train_digest=fold.digests('train')[0], model=model,
        class_names=fold.splits.class_names, steps=block['steps'],
        batch_size=block['batch_size'], seed=seed, curve=find_curve(),
        **_how(study)._asdict())
  return study_tasks.Task('generate', name, folder, work,
                          functools.partial(read, folder, model, study.spec,
                                            seed),
                          block['steps'],
                          size=functools.partial(_size, model),
                          where=f'config.generators.{name}')


def _of_images(study, fold, name: str, chosen: study_tasks.Task):
  """Yields a task for each representative that `chosen` finds."""
  block, model = study.config['generators'][name], study.models[name]
  labels = selection.labels(study, fold, block['representatives'])
  folders = [study.folder('generate', f'{name}.{i}', [
      VERSION, study.spec, chosen.key, i, block, study.seed(
          'generator', name, i), study.config['log_every']])
      for i in range(len(labels))]
  digest, = fold.digests('train')

  def work(which):
    train, found = fold.splits.train, chosen.read()
    jobs = [Job(folders[i], fold.label(f'{name}.{i}'), types.Split(*(
        x[found.places[i]:found.places[i] + 1] for x in train)), digest,
                study.seed('generator', name, i)) for i in which]
    together(jobs, spec=study.spec, model=model, steps=block['steps'],
             title=fold.label(name), **_how(study)._asdict())

  all_ = study.machine.together and len(folders) > 1
  for i, folder in enumerate(folders):
    yield study_tasks.Task(
        'generate', f'{name}.{i}', folder,
        functools.partial(work, range(len(folders)) if all_ else [i]),
        functools.partial(read, folder, model, study.spec,
                          study.seed('generator', name, i)),
        block['steps'], needs=(chosen,),
        site=fit.together(folders) if all_ else None,
        size=functools.partial(_size, model, len(folders) if all_ else 1),
        where=f'config.generators.{name}')


def _size(model, runs: int = 1) -> study_tasks.Size:
  state = jax.eval_shape(model.init, jax.random.key(0))
  weights = checkpoint.size(jax.eval_shape(
      functools.partial(curves.weights, model), state))
  return study_tasks.Size(weights, checkpoint.room(
      runs * (checkpoint.size(state) + weights)))


def models(config: dict, spec: types.ImageSpec, class_names) -> dict:
  """Returns name -> types.GenerativeModel of every block, arguments checked.

  One whose rule changes on the way is told how long the training is.
  """
  def build(name, block):
    given, where = schema.arguments(block), f'config.generators.{name}'
    found = registry.find('generators', block['model'], f'{where}.model')
    if 'steps' in registry.arguments(found.build):
      given['steps'] = block['steps']
    if 'classes' in given:
      given['classes'] = selection.numbers(given['classes'], class_names,
                                           f'{where}.classes')
    model = registry.build('generators', block['model'], given, where, spec)
    if model.per_image != bool(block['representatives']):
      known = ', '.join(config['selectors']) or 'which has none'
      raise errors.InputError(
          f'{where}.representatives: {block["representatives"]!r}; expected '
          + (f"the images that {block['model']} learns from, one each: a name "
             f'of config.selectors ({known}).' if model.per_image else
             f"'', for {block['model']} learns from all of them."))
    return model
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


def _grids(jobs, model, classes, draw, keys, every):
  """Returns the hook that shows samples: fixed noise, a class to a row.

  Real images that they start from stand in a row above them; before those of a
  model of one image this and its reconstruction.
  """
  count = GRID_COLUMNS - 2 if model.per_image else GRID_COLUMNS
  labels = jnp.repeat(jnp.asarray(classes[:1] if model.per_image else classes),
                      count)
  draw = jax.jit(draw)

  def picture(job, variables, key):
    samples, starts = draw(variables, key, labels)
    samples = pixels.to_uint8(samples)
    if model.per_image:
      samples = np.concatenate([job.train.images, pixels.to_uint8(
          jax.jit(model.reconstruct)(variables)), samples])
    elif model.origins:
      rows = [x.reshape(-1, GRID_COLUMNS, *samples.shape[1:]) for x in (
          job.train.images[np.asarray(starts)], samples)]
      samples = np.stack(rows, 1).reshape(-1, *samples.shape[1:])
    return images.grid(samples, GRID_COLUMNS)

  def show(step, state, memory, writer):
    for i, job in enumerate(jobs):
      grid = picture(job, model.variables(_part(state, i, len(jobs))), keys[i])
      with files.writing(job.folder.partial):
        images.save_png(
            job.folder.partial / 'samples' / f'step_{step:06d}.png', grid)
      writer.image(step, f'samples/{job.name}', grid)
    return memory
  return loop.Hook(every, show)


def _part(tree, i: int, count: int):
  """Returns what belongs to the i-th of several trainings in one program."""
  return tree if count == 1 else jax.tree.map(lambda x: x[i], tree)


class _Programs(typing.NamedTuple):
  """Compiled for a model, one or several trainings at a time.

  init(keys) -> state; adapt(state, images, labels), or None. begins and rules:
  by the first step of a phase.
  """
  init: typing.Callable
  adapt: typing.Callable | None
  begins: dict[int, typing.Callable]
  rules: dict[int, typing.Callable]


@functools.lru_cache(4)
def _programs(model, several: bool, calls: bool) -> _Programs:
  """Compiles a model once for all its trainings; `calls` take many steps."""
  over = jax.vmap if several else lambda function, *axes: function
  def compiled(rule):
    each = over(rule, (0, 0, 0))
    def update(state, count, batch, key):
      def one(state, batch):
        return each(state, batch, key)
      return (loop.repeat(one)(state, count, batch) if calls else
              one(state, batch))
    return jax.jit(update, donate_argnums=0)
  return _Programs(
      jax.jit(over(model.init)), model.adapt and jax.jit(over(model.adapt)),
      {phase.first: jax.jit(over(phase.begin)) for phase in model.phases},
      {0: compiled(model.step)} | {
          phase.first: compiled(phase.step) for phase in model.phases})


def _step(programs: _Programs, whole, key):
  """Returns step(state, (number, count, batch)), by the rule of its phase.

  whole() -> (images, labels), the training split.
  """
  def step(state, given):
    number, count, batch = given
    if number in programs.begins:
      state = programs.begins[number](state, *whole())
    first = max(first for first in programs.rules if first <= number)
    return programs.rules[first](state, count, batch, key)
  return step


def _feed(model, labels, class_names, batch_size: int, seed: int):
  """Returns batch(i) -> positions int32 [..., B], see types.GenerativeModel."""
  if model.feed:
    return model.feed(labels, class_names, batch_size, seed)
  return mixing.epochs(len(labels), batch_size, seed, model.d_steps)


def _batches(taken, steps):
  """Returns batches(i): the number of the step, how many are left, and
  taken(i), the images and labels of some steps."""
  def batches(i):
    image, label = taken(i)
    return i, np.int32(steps - i), {'image': image, 'label': label}
  return batches


def _of_feed(feed, bank, devices, steps, calls: int):
  """Returns what `_batches` takes: `calls` steps by `feed`."""
  def positions(i):
    index = np.stack([feed(k) for k in range(i, i + calls)])
    return index if calls > 1 else index[0],
  taken = banks.batches(bank, positions, devices, stop=steps, stride=calls)
  return lambda i: taken(i)[0]


def _of_image(bank, devices, d_steps: int, calls: int):
  """Returns the same for models of one image, which see it in every step."""
  # Of several models one image each: [R, 1, H, W, C].
  axis = 1 if bank.images.ndim == 5 else 0
  def all_alike(x):
    x = np.stack([x] * d_steps, axis)
    return np.stack([x] * calls) if calls > 1 else x
  batch = mesh.replicate(devices, tuple(all_alike(np.asarray(x))
                                        for x in bank))
  return lambda i: batch


def run(folder: files.Folder, *, name: str, spec: types.ImageSpec,
        train: types.Split, train_digest: str,
        model: types.GenerativeModel, steps: int, batch_size: int, seed: int,
        curve: curves.Curve | None = None, class_names: tuple[str, ...] = (),
        **how: _How) -> dict:
  """Trains `model` and writes its averaged weights; returns the manifest.

  The weights are those of the curve's lowest point, or without a curve the
  last; a collapse ends the training.
  """
  feed = _feed(model, np.asarray(train.labels), class_names, batch_size, seed)
  draw = origins.sampler(model, train, spec.num_classes)
  manifest, = _train(
      [Job(folder, name, train, train_digest, seed)], folder.partial, name,
      spec, model, feed, f'{model.d_steps} x {batch_size} images', draw, steps,
      curve, _How(**how))
  return manifest


def together(jobs: list[Job], *, title: str, spec: types.ImageSpec,
             model: types.GenerativeModel, steps: int, **how: _How):
  """Trains a model of one image for each of some, in one program.

  Numbers are those of one after the other but for rounding. What is done is
  left alone, unless the others are under way with it.
  """
  place = fit.together([job.folder for job in jobs]).partial
  if not place.exists():
    jobs = [job for job in jobs if not files.is_done(job.folder.final)]
  if len(jobs) == 1:
    place, title = jobs[0].folder.partial, jobs[0].name
  for job in jobs:
    files.begin(job.folder.partial, resume=True)
  _train(jobs, place, title, spec, model, None, 'one image each',
         origins.sampler(model, None, spec.num_classes), steps, None,
         _How(**how))


def _train(jobs: list[Job], place, title: str, spec, model, feed, eats: str,
           draw, steps: int, curve, how: _How) -> list[dict]:
  """Trains one model, or several in one program; returns their manifests.

  Args:
    jobs: what each is; their splits have one size.
    place: the folder of checkpoints and records.
    feed, draw: see types.GenerativeModel and origins; no feed of one image.
    eats: what a step sees, in words.
  """
  files.begin(place, resume=True)
  count, devices = len(jobs), how.devices
  each = [_keys(job.seed) for job in jobs]
  keys = each[0] if count == 1 else jax.tree.map(lambda *x: jnp.stack(x), *each)
  due = [how.log_every, how.save_every, how.sample_every]
  calls = loop.whole_calls(how.steps_per_call, *due, *(
      [curve.every] if curve else []), *(p.first for p in model.phases))
  programs = _programs(model, count > 1, calls > 1)
  state = mesh.replicate(devices, programs.init(keys.init))
  if count == 1:
    bank = banks.make(devices, jobs[0].train[:2])
  else:
    bank = banks.Bank(*mesh.replicate(devices, tuple(
        np.stack([job.train[field] for job in jobs]) for field in (0, 1))))
  def whole():
    return banks.whole(bank, devices)
  if programs.adapt:
    state = mesh.replicate(devices, programs.adapt(state, *whole()))
  parameters = model.parameters(_part(state, 0, count))
  overview, _ = metrics_log.overview(jax.eval_shape(
      model.variables, _part(state, 0, count)))
  for job in jobs:
    with files.writing(job.folder.partial):
      (job.folder.partial / 'parameters.txt').write_text(overview)
  console.say(f'generate {title}: {sum(parameters.values()):,} parameters, '
              f'{steps} steps of {eats}')

  hooks, best = [_grids(jobs, model, origins.made(model, spec.num_classes),
                        draw, [key.grid for key in each], how.sample_every)], {}
  if curve:  # First: where it ends the run, the others see their last step.
    hooks.insert(0, curves.hook(curve, model, draw, keys.curve))
    best = curves.start(curve, model, state)
  taken = (_of_image(bank, devices, model.d_steps, calls) if model.per_image
           else _of_feed(feed, bank, devices, steps, calls))
  state, best, seconds = loop.run(
      _step(programs, whole, keys.step), _batches(taken, steps), state, best,
      steps=steps, folder=place, title=f'generate {title}',
      log_every=how.log_every, save_every=how.save_every, hooks=tuple(hooks),
      steps_per_call=calls)
  facts = {'parameters': parameters, 'steps': steps,
           'devices': mesh.describe(devices), 'seconds': seconds / count,
           'chosen_step': int(best.get('step', steps)),
           'curve': curve and curve.name,
           'watched': dict(curve.names) if curve else {},
           **curves.collapsed(best)}
  if facts['collapsed']:
    console.say(f'generate {title}: {collapse.words(facts)}')
  out = []
  for i, job in enumerate(jobs):
    weights = jax.device_get(
        {key: best[key] for key in ('variables', 'critic') if key in best}
        or curves.weights(model, _part(state, i, count)))
    loop.check_finite(f'generate {job.name}', weights['variables'], steps)
    if count > 1 and not files.is_done(job.folder.final):
      metrics_log.take(place, job.folder.partial, i)
    out.append(_finish(job, model, spec, weights, facts))
  if count > 1:
    files.remove(place)
  return out


def _finish(job: Job, model, spec, weights: dict, facts: dict) -> dict:
  """Writes what a training leaves; returns the manifest."""
  folder, variables = job.folder, weights['variables']
  if files.is_done(folder.final):
    return files.manifest(folder.final)
  manifest = facts | {'train_digest': job.train_digest}
  if model.decode:
    with files.writing(folder.partial):
      images.save_png(folder.partial / _INTERPOLATION,
                      _interpolation(model, spec, job.seed, variables))
  if model.per_image:
    gap = jax.jit(model.reconstruct)(variables) - pixels.to_float(
        jnp.asarray(job.train.images))
    manifest['reconstruction_rmse'] = float(jnp.sqrt(jnp.square(gap).mean()))
  for key, tree in weights.items():
    checkpoint.write_tree(folder.partial / f'{key}.npz', tree)
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

  def score(images_, labels):
    like = jax.eval_shape(lambda: model.critic.variables(model.init(
        jax.random.key(0))))
    critic = checkpoint.read_tree(folder.final / 'critic.npz', like)
    run = jax.jit(lambda image, label: model.critic.score(
        critic, pixels.to_float(image), label))
    # Whole batches, so that one program is enough.
    size = min(_SCORED, max(len(labels), 1))
    rows = np.resize(np.arange(len(labels)), -(-len(labels) // size) * size)
    parts = [run(images_[part], np.asarray(labels[part], np.int32))
             for part in rows.reshape(-1, size)]
    return np.concatenate(parts or [np.zeros(0, np.float32)])[:len(labels)]

  return Trained(files.manifest(folder.final), model, variables,
                 metrics_log.read(folder.final), interpolation, score)
