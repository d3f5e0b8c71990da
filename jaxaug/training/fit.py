"""Trains the runs of a classifier from planned batches, and predicts.

Several runs train in one program, by `vmap`, or one alone; numbers differ by
rounding only.
"""
import functools
import math
import tempfile
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.augment import mix as mixtures
from jaxaug.augment import standard
from jaxaug.core import errors, files, registry, types
from jaxaug.data import mixing, pixels
from jaxaug.training import checkpoint, classifier, loop, mesh, metrics_log

# A change of what a training computes belongs here: see Network.key.
VERSION = 1
# Test and validation images that pass through the network at a time.
EVAL_BATCH = 500


class Bank(typing.NamedTuple):
  """Every image that a run may train on, once, on the device.

  images uint8 [N, H, W, C], labels int32 [N].
  """
  images: jax.Array
  labels: jax.Array


class Network(typing.NamedTuple):
  """What a classifier is: a block of a config. Hashable.

  spec: of the images; where: the block's config path; model: a file of
  classifiers/; arguments: (name, value) pairs, the network's and the rule's.
  """
  spec: types.ImageSpec
  where: str
  model: str
  arguments: tuple[tuple[str, typing.Any], ...]

  def key(self) -> list:
    """Names its training in a hash, by the file of its first weights too."""
    return [VERSION, self.model, self.arguments,
            files.fingerprint(dict(self.arguments).get('weights'))]


class Feed(typing.NamedTuple):
  """How a batch becomes what the network sees. Hashable.

  augmentation: pairs for augment/standard.py; mix, mix_alpha: see
  augment/mix.py; '' for none.
  """
  augmentation: tuple[tuple[str, typing.Any], ...]
  mix: str
  mix_alpha: float


class Treatment(typing.NamedTuple):
  """What an arm does to its batches and to the loss.

  partner: 'batch' or 'synthetic', what is mixed in; weight and adjustment:
  float32 [K], see classifier.Classifier.
  """
  feed: Feed
  partner: str
  weight: np.ndarray
  adjustment: np.ndarray

  def key(self) -> list:
    """Names it in a hash."""
    return [self.feed, self.partner, self.weight.tolist(),
            self.adjustment.tolist()]


class Job(typing.NamedTuple):
  """One run: where it goes, its number, what it learns from, who it is."""
  folder: files.Folder
  run: int
  plan: mixing.Plan
  identity: dict


class Axes(typing.NamedTuple):
  """What one call takes beside one step of one run; None for no such axis.

  runs: how many runs, the leading axis of states and of what they eat.
  steps: how many steps, an axis before it.
  """
  runs: int | None = None
  steps: int | None = None

  @property
  def lead(self) -> tuple[int, ...]:
    """The leading axes of a batch."""
    return tuple(n for n in (self.steps, self.runs) if n is not None)

  def over_runs(self, function, axes):
    """Maps `function` over the runs, where there are several."""
    return function if self.runs is None else jax.vmap(function, axes)

  def run(self, tree, i: int):
    """Returns the part of run `i`."""
    return tree if self.runs is None else jax.tree.map(lambda x: x[i], tree)


def pairs(arguments: dict) -> tuple:
  """Returns keyword arguments in an order of their own, hashable."""
  def frozen(value):
    if isinstance(value, (list, tuple)):
      return tuple(map(frozen, value))
    return value
  return tuple(sorted((k, frozen(v)) for k, v in arguments.items()))


def plain(classes: int, augmentation: tuple = ()) -> Treatment:
  """Returns the treatment that augments and does nothing else."""
  return Treatment(Feed(augmentation, '', 0.0), 'batch',
                   np.ones(classes, np.float32), np.zeros(classes, np.float32))


def network(spec: types.ImageSpec, where: str, model: str,
            arguments: dict) -> Network:
  """Returns the network of a block, and refuses what it does not take."""
  out = Network(spec, where, model, pairs(arguments))
  build(out)
  return out


def build(net: Network) -> classifier.Classifier:
  """Returns the classifier; its arguments are the network's and the rule's."""
  return classifier.of_block(net.spec, net.where, net.model,
                             dict(net.arguments))


def check_batch(net: Network, batch_size: int):
  """Refuses a batch that cannot be cut as the block wants it."""
  parts = dict(net.arguments).get('accumulate', 1)
  if batch_size % parts:
    raise errors.InputError(
        f'{net.where}.accumulate: {parts}; expected a divisor of the batch '
        f'size, {batch_size}.')


@functools.cache
def sizes(net: Network) -> tuple[int, int]:
  """Bytes of the weights that a training leaves, and of a checkpoint of it."""
  state = jax.eval_shape(build(net).init, jax.random.key(0), 1)
  weights = checkpoint.size(classifier.variables(state.net))
  return weights, checkpoint.size(state) + weights  # The best so far.


# ------------------------------------------------------------- the programs
class _Programs(typing.NamedTuple):
  init: typing.Callable
  step: typing.Callable
  select: typing.Callable
  evaluate: typing.Callable
  features: typing.Callable


@functools.lru_cache(None)
def _programs(net: Network, axes: Axes) -> _Programs:
  """Compiles a classifier once for all its arms and runs."""
  rule = build(net)

  def step(state, image, target, weight, adjustment, key):
    return rule.step(state, {'image': image, 'target': target,
                             'weight': weight, 'adjustment': adjustment}, key)

  def features(variables, images):
    return jax.lax.map(lambda batch: rule.features(
        variables, pixels.to_float(batch)), images)

  one = axes.over_runs(step, (0, 0, 0, None, None, 0))
  def steps(state, count, image, target, *rest):
    if axes.steps is None:
      return one(state, image, target, *rest)
    return loop.repeat(lambda state, batch: one(state, *batch, *rest))(
        state, count, (image, target))
  evaluate = functools.partial(_evaluate, rule.predict)
  select = functools.partial(_select, evaluate)
  return _Programs(
      jax.jit(axes.over_runs(rule.init, (0, None))),
      jax.jit(steps, donate_argnums=0),
      jax.jit(axes.over_runs(select, (0, 0, None, None, None)),
              donate_argnums=0),
      jax.jit(axes.over_runs(evaluate, (0, None, None))), jax.jit(features))


def _evaluate(predict, variables, images, labels):
  """Logits [N, K] of whole batches, error and loss; labels below 0 are padding.
  """
  def one(batch):
    return predict(variables, pixels.to_float(batch))
  # Forward convolutions are as fast inside a loop as outside.
  logits = jax.lax.map(one, images)
  logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
  there = labels >= 0
  picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None],
                               1)[:, 0]
  wrong, count = logits.argmax(-1) != labels, jnp.maximum(there.sum(), 1)
  return (logits, jnp.where(there, wrong, 0).sum() / count,
          -jnp.where(there, picked, 0).sum() / count)


def _select(evaluate, best, variables, images, labels, step):
  """Keeps the weights of the lowest validation error, then loss."""
  _, error, loss = evaluate(variables, images, labels)
  better = (error < best['error']) | (
      (error == best['error']) & (loss < best['loss']))
  new = {'error': error, 'loss': loss, 'step': step, 'variables': variables}
  best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
  return best, error, loss


@functools.lru_cache(None)
def _feed(how: Feed, classes: int, axes: Axes):
  """Compiles gather, augmentation and mixing of one kind of arm."""
  apply = standard.make(**dict(how.augmentation))
  mix = mixtures.make(how.mix, how.mix_alpha)

  def take(bank, index, key):
    images = apply(key, pixels.to_float(bank.images[index]))
    return images, jax.nn.one_hot(bank.labels[index], classes)

  def feed(bank, index, partner, key, step):
    key = jax.random.fold_in(key, step)
    batch = take(bank, index, key)
    if how.mix:
      other = take(bank, partner, jax.random.fold_in(key, 1))
      batch = mix(jax.random.fold_in(key, 2), *batch, *other)
    return batch
  feed = axes.over_runs(feed, (None, 0, 0, 0, None))
  if axes.steps is not None:
    feed = jax.vmap(feed, (None, 0, 0, None, 0))
  return jax.jit(feed)


# ----------------------------------------------------------------- training
def _batched(images, labels):
  """Pads images to whole batches: ([n, B, H, W, C], labels [n, B])."""
  count = len(labels)
  size = min(EVAL_BATCH, max(count, 1))
  whole = math.ceil(count / size) * size
  padded = np.zeros((whole, *images.shape[1:]), np.uint8)
  padded[:count] = images
  marks = np.full(whole, -1, np.int32)
  marks[:count] = labels
  return padded.reshape(-1, size, *images.shape[1:]), marks.reshape(-1, size)


def _selection(select, validation, every):
  """Returns the hook that keeps each run's best weights by validation.

  The test split is not looked at.
  """
  images, labels = _batched(validation.images, validation.labels)

  def run(step, state, best, writer):
    best, error, loss = select(best, classifier.variables(state.net), images,
                               labels, jnp.int32(step))
    found = {'validation_error': error, 'validation_loss': loss}
    if error.ndim:
      found = {f'{name}/{i}': value for name, values in found.items()
               for i, value in enumerate(values)}
    writer.scalars(step, found)
    return best
  return loop.Hook(every, run)


def _unselected(state, axes: Axes) -> dict:
  """What is known before the first look at the validation split."""
  shape = () if axes.runs is None else (axes.runs,)
  return {'error': jnp.full(shape, jnp.inf), 'loss': jnp.full(shape, jnp.inf),
          'step': jnp.zeros(shape, jnp.int32),
          'variables': jax.tree.map(jnp.copy, classifier.variables(state.net))}


def together(folders) -> files.Folder:
  """Where the runs of these folders train in one program."""
  names = [folder.final.name for folder in folders]
  return files.folder(folders[0].final.parent,
                      f'together-{files.digest(names)}')


def _together(jobs) -> files.Folder:
  return together([job.folder for job in jobs])


def _left(jobs) -> list[Job]:
  """The jobs to do: all where they are under way together, else what is not
  done."""
  if len(jobs) > 1 and _together(jobs).partial.exists():
    return jobs
  return [job for job in jobs if not files.is_done(job.folder.final)]


def _batches(jobs, treatment: Treatment, axes: Axes, devices):
  """Returns batches(i): its steps, and positions of images and of partners."""
  partners = (mixing.partners if treatment.partner == 'synthetic' else
              mixing.shuffled if treatment.feed.mix else None)

  def positions(choose, steps):
    rows = np.stack([[choose(job.plan, int(t)) for job in jobs] for t in steps])
    rows = rows.reshape(*axes.lead, -1)
    return mesh.shard(devices, rows, axis=rows.ndim - 1)

  def batches(i):
    steps = np.arange(i, i + (axes.steps or 1))
    index = positions(mixing.batch, steps)
    other = positions(partners, steps) if partners else index
    return i if axes.steps is None else steps, index, other
  return batches


def train(jobs: list[Job], *, title: str, net: Network, treatment: Treatment,
          bank: Bank, validation: types.Split, test: types.Split, steps: int,
          seed: int, devices, eval_every: int, log_every: int, save_every: int,
          steps_per_call: int = 1):
  """Trains runs of one arm and reads the test split once for each.

  Run k of every arm has the same initial weights, stream of real images and
  augmentation keys, so that arms are compared in pairs. Several jobs train in
  one program; numbers are those of one after the other but for rounding.
  """
  jobs = _left(jobs)
  folder = (jobs[0].folder if len(jobs) == 1 else _together(jobs)).partial
  files.begin(folder, resume=True)
  calls = loop.whole_calls(steps_per_call, log_every, save_every, eval_every)
  axes = Axes(len(jobs) if len(jobs) > 1 else None,
              calls if calls > 1 else None)
  programs = _programs(net, axes)
  feed = _feed(treatment.feed, net.spec.num_classes, axes)
  keys = jnp.stack([jax.random.split(jax.random.fold_in(
      jax.random.key(seed), job.run), 3) for job in jobs], 1)
  key_init, key_feed, key_step = keys if axes.runs else keys[:, 0]
  state = mesh.replicate(devices, programs.init(key_init, jnp.int32(steps)))
  count = sum(x.size for x in jax.tree.leaves(state.net.params)) // len(jobs)

  def step(state, batch):
    at, index, other = batch
    return programs.step(state, np.int32(steps - np.min(at)),
                         *feed(bank, index, other, key_feed, at),
                         treatment.weight, treatment.adjustment, key_step)

  best, hooks = {}, ()
  if len(validation.labels):
    best = _unselected(state, axes)
    hooks = (_selection(programs.select, validation, eval_every),)
  state, best, seconds = loop.run(
      step, _batches(jobs, treatment, axes, devices), state, best, steps=steps,
      folder=folder, title=title, log_every=log_every, save_every=save_every,
      hooks=hooks, steps_per_call=calls)
  chosen = best.pop('variables', classifier.variables(state.net))
  logits, error, _ = programs.evaluate(
      chosen, *_batched(test.images, test.labels))
  ends = jax.device_get((chosen, logits, error, best))
  loop.check_finite(title, ends[:2], steps)
  facts = {'model': net.model, 'parameters': count, 'steps': steps,
           'spec': list(net.spec), 'arguments': dict(net.arguments),
           'devices': mesh.describe(devices), 'seconds': seconds / len(jobs)}
  for i, job in enumerate(jobs):
    if axes.runs and not files.is_done(job.folder.final):
      files.begin(job.folder.partial)
      metrics_log.take(folder, job.folder.partial, i)
    _finish(job, *axes.run(ends, i), test, facts)
  files.remove(_together(jobs).partial)


def _finish(job: Job, chosen, logits, error, best, test, facts):
  """Writes what one run leaves behind."""
  place = job.folder
  if files.is_done(place.final):
    return
  checkpoint.write_tree(place.partial / 'variables.npz', chosen)
  files.save_npz(place.partial / 'predictions.npz',
                 logits=logits[:len(test.labels)],
                 labels=np.asarray(test.labels))
  files.finish(place.partial, place.final, {
      **job.identity, **facts, 'run': job.run, 'test_error': float(error),
      'chosen_step': int(best['step']) if best else facts['steps'],
      'validation_error': float(best['error']) if best else None,
      'real': len(job.plan.real), 'synthetic': len(job.plan.synthetic)})
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  files.remove(place.final / 'checkpoints')


# -------------------------------------------------------- trained classifiers
def read(folder: files.Folder, net: Network):
  """Returns the variables of a finished run."""
  like = jax.eval_shape(lambda: classifier.variables(
      build(net).init(jax.random.key(0), 1).net))
  return checkpoint.read_tree(folder.final / 'variables.npz', like)


def predict(net: Network, variables, images) -> np.ndarray:
  """Returns the logits [N, K] of uint8 images [N, H, W, C]."""
  batches = _batched(images, np.zeros(len(images), np.int32))
  logits, _, _ = _programs(net, Axes()).evaluate(variables, *batches)
  return np.asarray(logits)[:len(images)]


def features(net: Network, variables, images) -> np.ndarray:
  """Returns what the last layer sees of uint8 images: float32 [N, F]."""
  batches, _ = _batched(images, np.zeros(len(images), np.int32))
  out = np.asarray(_programs(net, Axes()).features(variables, batches))
  return out.reshape(-1, out.shape[-1])[:len(images)]


def fitter(net: Network, *, steps: int, batch_size: int, seed: int, devices):
  """Returns fit(images, labels, run) -> predict(images) -> logits [N, K].

  What metrics train that ask how much a set of images teaches: plain training
  of `net` for `steps`, nothing of which stays on the disk.

  Args:
    net: the classifier.
    steps, batch_size: of a training; smaller sets make smaller batches.
    seed: with `run`, of weights and batches.
    devices: mesh.
  """
  def fit(images, labels, run: int):
    split = types.Split(images, np.asarray(labels, np.int32),
                        np.arange(len(labels)))
    with registry.within(net.where):
      plan = mixing.plan(
          mixing.everything(len(labels)), pool_start=0,
          batch_size=min(batch_size, len(labels)), seed=(seed, run))
    with tempfile.TemporaryDirectory(prefix='jaxaug-') as scratch:
      folder = files.folder(scratch, 'run')
      train((Job(folder, run, plan, {'arm': 'fit'}),),
            title=f'classifier {run} of {len(labels):,} images', net=net,
            treatment=plain(net.spec.num_classes),
            bank=Bank(*mesh.replicate(devices, split[:2])),
            validation=types.Split(*(x[:0] for x in split)),
            test=types.Split(*(x[:1] for x in split)), steps=steps, seed=seed,
            devices=devices, eval_every=steps, log_every=steps,
            save_every=steps)
      trained = read(folder, net)

    return functools.partial(predict, net, trained)
  return fit
