"""Stage 6: a classifier learns from an arm; its test predictions, once a run.

The runs of an arm train one after the other on CPU, and on an accelerator in
one program, by `vmap`.
"""
import functools
import json
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
from jaxaug.training import checkpoint, loop, mesh, metrics_log
from jaxaug.training import classifier as supervised

# Test and validation images that pass through the network at a time.
EVAL_BATCH = 500


class Bank(typing.NamedTuple):
  """Every image that any arm may train on, once, on the device.

  images uint8 [N, H, W, C], labels int32 [N].
  """
  images: jax.Array
  labels: jax.Array


class Network(typing.NamedTuple):
  """What a classifier is: a block of the config.

  spec: of the images; where: the block's config path; model: a file of
  classifiers/; arguments: JSON of the network's and the rule's.
  """
  spec: types.ImageSpec
  where: str
  model: str
  arguments: str


class Treatment(typing.NamedTuple):
  """What an arm does to its batches and to the loss.

  feed: JSON of the augmentation, the kind of mixing ('', 'mixup', 'cutmix')
  and its alpha; partner: 'batch' or 'synthetic', what is mixed in; weight and
  adjustment: float32 [K], see supervised.Classifier.
  """
  feed: str
  partner: str
  weight: np.ndarray
  adjustment: np.ndarray

  def key(self) -> list:
    """Names it in a hash."""
    return [self.feed, self.partner, self.weight.tolist(),
            self.adjustment.tolist()]


class Job(typing.NamedTuple):
  """One run of an arm: where it goes, its number, what it learns from."""
  folder: files.Folder
  run: int
  plan: mixing.Plan
  identity: dict


def treatment(augmentation: dict, weight, adjustment, *, mix: str = '',
              mix_alpha: float = 1.0, partner: str = 'batch') -> Treatment:
  """Returns the treatment; see its class and augment/mix.py."""
  feed = json.dumps([augmentation, mix, mix_alpha], sort_keys=True)
  return Treatment(feed, partner, np.float32(weight), np.float32(adjustment))


def network(spec: types.ImageSpec, where: str, model: str,
            arguments: dict) -> Network:
  """Returns the classifier of a block, and refuses what it does not take."""
  out = Network(spec, where, model, json.dumps(arguments, sort_keys=True))
  build(out)
  return out


def build(net: Network) -> supervised.Classifier:
  """Returns the classifier; its arguments are the network's and the rule's."""
  return supervised.of_block(net.spec, net.where, net.model,
                             json.loads(net.arguments))


class _Programs(typing.NamedTuple):
  init: typing.Callable
  step: typing.Callable
  select: typing.Callable
  evaluate: typing.Callable
  features: typing.Callable


@functools.lru_cache(None)
def _programs(net: Network, runs: int, stride: int) -> _Programs:
  """Compiles a classifier once for all its arms and runs.

  `runs` at once, or 0 for one without an axis of its own; `stride` steps a
  call.
  """
  classifier = build(net)

  def evaluate(variables, images, labels):
    """Logits [N, K] in whole batches; labels below 0 are padding."""
    def one(batch):
      return classifier.predict(variables, pixels.to_float(batch))
    # Forward convolutions are as fast inside a loop as outside.
    logits = jax.lax.map(one, images).reshape(-1, net.spec.num_classes)
    labels = labels.reshape(-1)
    there = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None],
                                 1)[:, 0]
    wrong, count = logits.argmax(-1) != labels, jnp.maximum(there.sum(), 1)
    return (logits, jnp.where(there, wrong, 0).sum() / count,
            -jnp.where(there, picked, 0).sum() / count)

  def select(memory, variables, images, labels, step):
    """Keeps the weights of the lowest validation error, then loss."""
    _, error, loss = evaluate(variables, images, labels)
    better = (error < memory['error']) | (
        (error == memory['error']) & (loss < memory['loss']))
    new = {'error': error, 'loss': loss, 'step': step, 'variables': variables}
    memory = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, memory)
    return memory, error, loss

  def step(state, image, target, weight, adjustment, key):
    return classifier.step(state, {
        'image': image, 'target': target, 'weight': weight,
        'adjustment': adjustment}, key)

  def features(variables, images):
    return jax.lax.map(lambda batch: classifier.features(
        variables, pixels.to_float(batch)), images)

  def over(function, axes):
    return jax.vmap(function, axes) if runs else function
  one = over(step, (0, 0, 0, None, None, 0))
  def steps(state, count, image, target, *rest):
    if stride == 1:
      return one(state, image, target, *rest)
    return loop.repeat(lambda state, batch: one(state, *batch, *rest))(
        state, count, (image, target))
  return _Programs(
      jax.jit(over(classifier.init, (0, None))),
      jax.jit(steps, donate_argnums=0),
      jax.jit(over(select, (0, 0, None, None, None)), donate_argnums=0),
      jax.jit(over(evaluate, (0, None, None))), jax.jit(features))


@functools.lru_cache(None)
def _feed(frozen: str, classes: int, runs: int, stride: int):
  """Compiles gather, augmentation and mixing of one kind of arm."""
  augmentation, kind, alpha = json.loads(frozen)
  apply = standard.make(**augmentation)
  mix = mixtures.make(kind, alpha)

  def take(bank, index, key):
    images = apply(key, pixels.to_float(bank.images[index]))
    return images, jax.nn.one_hot(bank.labels[index], classes)

  def feed(bank, index, partner, key, step):
    key = jax.random.fold_in(key, step)
    batch = take(bank, index, key)
    if kind:
      other = take(bank, partner, jax.random.fold_in(key, 1))
      batch = mix(jax.random.fold_in(key, 2), *batch, *other)
    return batch
  if runs:
    feed = jax.vmap(feed, (None, 0, 0, 0, None))
  if stride > 1:
    feed = jax.vmap(feed, (None, 0, 0, None, 0))
  return jax.jit(feed)


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

  def run(step, state, memory, writer):
    memory, error, loss = select(memory, supervised.variables(state.net),
                                 images, labels, jnp.int32(step))
    found = {'validation_error': error, 'validation_loss': loss}
    writer.scalars(step, {
        name + f'/{i}' * value.ndim: v for name, value in found.items()
        for i, v in enumerate(np.atleast_1d(value))})
    return memory
  return loop.Hook(every, run)


def _memory(state, runs):
  """What is known before the first look at the validation split."""
  shape = (runs,) * bool(runs)
  return {'error': jnp.full(shape, jnp.inf), 'loss': jnp.full(shape, jnp.inf),
          'step': jnp.zeros(shape, jnp.int32),
          'variables': jax.tree.map(jnp.copy, supervised.variables(state.net))}


def _together(jobs) -> files.Folder:
  """Where several runs train in one program."""
  names = [job.folder.final.name for job in jobs]
  return files.folder(jobs[0].folder.final.parent,
                          f'together-{files.digest(names)}')


def _left(jobs) -> list[Job]:
  """The jobs to do: all where they are under way together, else what is not
  done."""
  if len(jobs) > 1 and _together(jobs).partial.exists():
    return jobs
  return [job for job in jobs if not files.is_done(job.folder.final)]


def run(jobs: list[Job], *, title: str, net: Network, treatment: Treatment,
        bank: Bank, validation: types.Split, test: types.Split, steps: int,
        seed: int, devices, eval_every: int, log_every: int, save_every: int,
        stride: int = 1):
  """Trains runs of one arm and reads the test split once for each.

  Run k of every arm has the same initial weights, stream of real images and
  augmentation keys, so that arms are compared in pairs. Several jobs train in
  one program; numbers are those of one after the other but for rounding.
  """
  jobs = _left(jobs)
  alone, runs = len(jobs) == 1, len(jobs) * (len(jobs) > 1)
  folder = jobs[0].folder.partial if alone else _together(jobs).partial
  files.begin(folder, resume=True)
  stride = loop.stride(stride, log_every, save_every, eval_every)
  programs = _programs(net, runs, stride)
  feed = _feed(treatment.feed, net.spec.num_classes, runs, stride)
  keys = [jax.random.split(jax.random.fold_in(jax.random.key(seed), job.run),
                           3) for job in jobs]
  key_init, key_feed, key_step = keys[0] if alone else jnp.stack(keys, 1)
  state = mesh.replicate(devices, programs.init(key_init, jnp.int32(steps)))
  count = sum(x.size for x in jax.tree.leaves(state.net.params)) // len(jobs)
  partner = (mixing.partners if treatment.partner == 'synthetic' else
             mixing.shuffled if json.loads(treatment.feed)[1] else mixing.batch)

  def step(state, batch):
    at, index, other = batch
    count = np.int32(steps - np.min(at))
    return programs.step(state, count, *feed(bank, index, other, key_feed, at),
                         treatment.weight, treatment.adjustment, key_step)

  def batches(i):
    at = np.arange(i, i + stride)
    def positions(choose):
      rows = np.stack([[choose(job.plan, int(t)) for job in jobs] for t in at])
      rows = rows.reshape(*(stride,) * (stride > 1), *(runs,) * (not alone), -1)
      return mesh.shard(devices, rows, axis=rows.ndim - 1)
    index = positions(mixing.batch)
    other = index if partner is mixing.batch else positions(partner)
    return at if stride > 1 else i, index, other

  memory, hooks = {}, ()
  if len(validation.labels):
    memory = _memory(state, runs)
    hooks = (_selection(programs.select, validation, eval_every),)
  state, memory, seconds = loop.run(
      step, batches, state, memory, steps=steps, folder=folder, title=title,
      log_every=log_every, save_every=save_every, hooks=hooks, stride=stride)
  chosen = memory.get('variables', supervised.variables(state.net))
  logits, error, _ = programs.evaluate(
      chosen, *_batched(test.images, test.labels))
  chosen, logits, error, memory = jax.device_get(
      (chosen, logits, error, {k: v for k, v in memory.items()
                               if k != 'variables'}))
  for i, job in enumerate(jobs):
    mine = jax.tree.map(lambda x, i=i: x if alone else x[i],
                        (chosen, logits[..., :len(test.labels), :], error,
                         memory))
    _finish(job, folder, None if alone else i, *mine, test, {
        'model': net.model, 'parameters': count, 'steps': steps,
        'spec': list(net.spec), 'arguments': json.loads(net.arguments),
        'devices': mesh.describe(devices), 'seconds': seconds / len(jobs)})
  files.remove(_together(jobs).partial)


def _finish(job, folder, number, chosen, logits, error, memory, test, facts):
  """Writes what one run leaves behind; `number` is its place among several."""
  place = job.folder
  if files.is_done(place.final):
    return
  if number is not None:
    files.begin(place.partial)
    writer = metrics_log.writer(place.partial)
    for record in metrics_log.read(folder):
      mine = {name.removesuffix(f'/{number}'): value
              for name, value in record.items() if name.endswith(f'/{number}')}
      writer.scalars(record['step'], mine)
    writer.close()
  checkpoint.write_tree(place.partial / 'variables.npz', chosen)
  files.save_npz(place.partial / 'predictions.npz', logits=logits,
                     labels=np.asarray(test.labels))
  real, synthetic = job.plan.real, job.plan.synthetic
  files.finish(place.partial, place.final, {
      **job.identity, **facts, 'run': job.run, 'test_error': float(error),
      'chosen_step': int(memory['step']) if memory else facts['steps'],
      'validation_error': float(memory['error']) if memory else None,
      'real': len(real), 'synthetic': len(synthetic)})
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  files.remove(place.final / 'checkpoints')


def _trained(folder: files.Folder, net: Network):
  """Returns the variables of a finished run."""
  like = jax.eval_shape(lambda: supervised.variables(
      build(net).init(jax.random.key(0), 1).net))
  return checkpoint.read_tree(folder.final / 'variables.npz', like)


def predict(folder: files.Folder, net: Network,
            split: types.Split) -> np.ndarray:
  """Returns the logits [N, K] of a trained classifier on any images."""
  return _logits(net, _trained(folder, net), split.images)


def _logits(net: Network, variables, images) -> np.ndarray:
  batches = _batched(images, np.zeros(len(images), np.int32))
  logits, _, _ = _programs(net, 0, 1).evaluate(variables, *batches)
  return np.asarray(logits)[:len(images)]


def features(folder: files.Folder, net: Network, images) -> np.ndarray:
  """Returns what its last layer sees of uint8 images: float32 [N, F]."""
  batches, _ = _batched(images, np.zeros(len(images), np.int32))
  see = _programs(net, 0, 1).features
  out = np.asarray(see(_trained(folder, net), batches))
  return out.reshape(-1, out.shape[-1])[:len(images)]


def fitter(net: Network, *, steps: int, batch_size: int, seed: int, devices):
  """Returns fit(images, labels, run) -> predict(images) -> int [N].

  What metrics train that ask how much a set of images teaches: plain training
  of `net` for `steps`, nothing of which stays on the disk.

  Args:
    net: the classifier.
    steps, batch_size: of a training; smaller sets make smaller batches.
    seed: with `run`, of weights and batches.
    devices: mesh.
  """
  classes = net.spec.num_classes
  plain = treatment({}, np.ones(classes), np.zeros(classes))

  def fit(images, labels, run_number):
    split = types.Split(images, np.asarray(labels, np.int32),
                        np.arange(len(labels)))
    with registry.within(net.where):
      plan = mixing.plan(
          mixing.everything(len(labels)), pool_start=0,
          batch_size=min(batch_size, len(labels)), seed=(seed, run_number))
    with tempfile.TemporaryDirectory(prefix='jaxaug-') as scratch:
      folder = files.folder(scratch, 'run')
      run((Job(folder, run_number, plan, {'arm': 'fit'}),),
          title=f'classifier {run_number} of {len(labels):,} images', net=net,
          treatment=plain, bank=Bank(*mesh.replicate(devices, split[:2])),
          validation=types.Split(*(x[:0] for x in split)),
          test=types.Split(*(x[:1] for x in split)), steps=steps, seed=seed,
          devices=devices, eval_every=steps, log_every=steps, save_every=steps)
      trained = _trained(folder, net)

    return lambda images: _logits(net, trained, images).argmax(-1)
  return fit


def step_flops(net: Network, batch_size: int) -> int:
  """Returns the operations of one training step; see budget.flops."""
  from jaxaug.study import budget
  classifier, spec = build(net), net.spec
  state = jax.eval_shape(classifier.init, jax.random.key(0), 1)
  image = jax.ShapeDtypeStruct((batch_size, *spec[:3]), jnp.float32)
  return budget.flops(
      lambda state, image: classifier.step(
          state, supervised.plain(image, jnp.zeros(batch_size, jnp.int32),
                                  spec.num_classes), jax.random.key(0)),
      state, image)


def check_batch(net: Network, batch_size: int):
  """Refuses a batch that cannot be cut as the block wants it."""
  parts = json.loads(net.arguments).get('accumulate', 1)
  if batch_size % parts:
    raise errors.InputError(
        f'{net.where}.accumulate: {parts}; expected a divisor of the batch '
        f'size, {batch_size}.')
