"""Trains the runs of a classifier from planned batches, and predicts.

Several runs train in one program, by `vmap`, or one alone; numbers differ by
rounding only.
"""
import functools
import tempfile
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.augment import mix as mixtures
from jaxaug.augment import standard
from jaxaug.core import errors, files, registry, types
from jaxaug.data import mixing, pixels
from jaxaug.training import bank as banks
from jaxaug.training import checkpoint, classifier, loop, mesh, metrics_log

# A change of what a training computes belongs here: see Network.key.
VERSION = 1
# Images that pass through a network at a time where it learns nothing.
EVAL_BATCH = 500


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
  predict: typing.Callable
  score: typing.Callable
  select: typing.Callable
  features: typing.Callable


@functools.lru_cache(None)
def _programs(net: Network, axes: Axes) -> _Programs:
  """Compiles a classifier once for all its arms and runs."""
  rule = build(net)

  def step(state, image, target, weight, adjustment, key):
    return rule.step(state, {'image': image, 'target': target,
                             'weight': weight, 'adjustment': adjustment}, key)

  def predict(variables, images):
    return rule.predict(variables, pixels.to_float(images))

  def features(variables, images):
    return rule.features(variables, pixels.to_float(images))

  one = axes.over_runs(step, (0, 0, 0, None, None, 0))
  def steps(state, count, image, target, *rest):
    if axes.steps is None:
      return one(state, image, target, *rest)
    return loop.repeat(lambda state, batch: one(state, *batch, *rest))(
        state, count, (image, target))
  return _Programs(
      jax.jit(axes.over_runs(rule.init, (0, None))),
      jax.jit(steps, donate_argnums=0),
      jax.jit(axes.over_runs(predict, (0, None))),
      jax.jit(axes.over_runs(_score, (0, None))),
      jax.jit(axes.over_runs(_select, (0, 0, 0, None, None)),
              donate_argnums=0), jax.jit(features))


def _score(logits, labels):
  """Returns the error and the loss of logits [N, K]."""
  picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None],
                               1)[:, 0]
  return jnp.mean(logits.argmax(-1) != labels), -jnp.mean(picked)


def _select(best, variables, logits, labels, step):
  """Keeps the weights of the lowest validation error, then loss."""
  error, loss = _score(logits, labels)
  better = (error < best['error']) | (
      (error == best['error']) & (loss < best['loss']))
  new = {'error': error, 'loss': loss, 'step': step, 'variables': variables}
  best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
  return best, error, loss


@functools.lru_cache(None)
def _feed(how: Feed, classes: int, axes: Axes):
  """Compiles augmentation and mixing of one kind of arm."""
  apply = standard.make(**dict(how.augmentation))
  mix = mixtures.make(how.mix, how.mix_alpha)

  def take(batch, key):
    images, labels = batch
    return (apply(key, pixels.to_float(images)),
            jax.nn.one_hot(labels, classes))

  def feed(batch, partner, key, step):
    key = jax.random.fold_in(key, step)
    batch = take(batch, key)
    if how.mix:
      other = take(partner, jax.random.fold_in(key, 1))
      batch = mix(jax.random.fold_in(key, 2), *batch, *other)
    return batch
  feed = axes.over_runs(feed, (0, 0, 0, None))
  if axes.steps is not None:
    feed = jax.vmap(feed, (0, 0, None, 0))
  return jax.jit(feed)


# ----------------------------------------------------------------- training
def _each(program, variables, images):
  """Returns program(variables, batch) [..., B, D] of all images: [..., N, D].

  Batches are of one size, so that one program is enough; what the last one has
  too many of is cut off.
  """
  count, out = len(images), []
  size = min(EVAL_BATCH, max(count, 1))
  for start in range(0, max(count, 1), size):
    batch = images[start:start + size]
    more = np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)
    out.append(program(variables, np.concatenate([batch, more])))
  return jnp.concatenate(out, -2)[..., :count, :]


def _selection(programs: _Programs, validation, every):
  """Returns the hook that keeps each run's best weights by validation.

  The test split is not looked at.
  """
  labels = np.asarray(validation.labels)

  def run(step, state, best, writer):
    variables = classifier.variables(state.net)
    logits = _each(programs.predict, variables, validation.images)
    best, error, loss = programs.select(best, variables, logits, labels,
                                        jnp.int32(step))
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


def _batches(jobs, treatment: Treatment, axes: Axes, bank, devices, steps: int):
  """Returns batches(i): its steps, the images and labels, and the partners."""
  partners = (mixing.partners if treatment.partner == 'synthetic' else
              mixing.shuffled if treatment.feed.mix else None)
  stride = axes.steps or 1

  def positions(i):
    return tuple(np.stack([
        [choose(job.plan, t) for job in jobs]
        for t in range(i, i + stride)]).reshape(*axes.lead, -1)
                 for choose in (mixing.batch, partners) if choose)
  taken = banks.batches(bank, positions, devices, stop=steps, stride=stride)

  def batches(i):
    found = taken(i)
    return (i if axes.steps is None else np.arange(i, i + stride), found[0],
            found[-1])
  return batches


def train(jobs: list[Job], *, title: str, net: Network, treatment: Treatment,
          bank: banks.Bank, validation: types.Split, test: types.Split,
          steps: int, seed: int, devices, eval_every: int, log_every: int,
          save_every: int, steps_per_call: int = 1):
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
    at, mine, other = batch
    return programs.step(state, np.int32(steps - np.min(at)),
                         *feed(mine, other, key_feed, at),
                         treatment.weight, treatment.adjustment, key_step)

  best, hooks = {}, ()
  if len(validation.labels):
    best = _unselected(state, axes)
    hooks = (_selection(programs, validation, eval_every),)
  state, best, seconds = loop.run(
      step, _batches(jobs, treatment, axes, bank, devices, steps), state, best,
      steps=steps, folder=folder, title=title, log_every=log_every,
      save_every=save_every, hooks=hooks, steps_per_call=calls)
  chosen = best.pop('variables', classifier.variables(state.net))
  logits = _each(programs.predict, chosen, test.images)
  error, _ = programs.score(logits, np.asarray(test.labels))
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
                 logits=logits, labels=np.asarray(test.labels))
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
  return np.asarray(_each(_programs(net, Axes()).predict, variables, images))


def features(net: Network, variables, images) -> np.ndarray:
  """Returns what the last layer sees of uint8 images: float32 [N, F]."""
  return np.asarray(_each(_programs(net, Axes()).features, variables, images))


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
            bank=banks.make(devices, split[:2]),
            validation=types.Split(*(x[:0] for x in split)),
            test=types.Split(*(x[:1] for x in split)), steps=steps, seed=seed,
            devices=devices, eval_every=steps, log_every=steps,
            save_every=steps)
      trained = read(folder, net)

    return functools.partial(predict, net, trained)
  return fit
