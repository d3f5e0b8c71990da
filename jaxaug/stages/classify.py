"""Stage 5: one classifier, one arm, one run; its test predictions, once."""
import functools
import json
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug import (
  adversarial,
  artefacts,
  augment,
  checkpoint,
  loop,
  mesh,
  mixing,
  registry,
  supervised,
  types,
)

# Test and validation images that pass through the network at a time.
EVAL_BATCH = 500


class Bank(typing.NamedTuple):
  """Every image that any arm may train on, once, on the device.

  images uint8 [N, H, W, C], labels int32 [N].
  """
  images: jax.Array
  labels: jax.Array


def build(spec: types.ImageSpec, where: str, model: str, arguments: dict,
          steps: int) -> supervised.Classifier:
  """Returns the classifier; its arguments are the network's and the rule's."""
  network_args = registry.arguments(
      registry.find('classifiers', model, f'{where}.model').build)
  rule = {k: v for k, v in arguments.items() if k not in network_args}
  registry.check(supervised.make, rule | {'steps': steps}, where,
                 also=network_args)
  network = registry.build(
      'classifiers', model,
      {k: v for k, v in arguments.items() if k in network_args}, where, spec)
  with registry.within(where):
    return supervised.make(spec, network, steps=steps, **rule)


class _Programs(typing.NamedTuple):
  init: typing.Callable
  step: typing.Callable
  evaluate: typing.Callable


@functools.lru_cache(None)
def _programs(spec, where, model, frozen: str, steps: int) -> _Programs:
  """Compiles a classifier once for all its arms and runs."""
  classifier = build(spec, where, model, json.loads(frozen), steps)

  def evaluate(variables, images, labels):
    """Logits [N, K] in whole batches; labels below 0 are padding."""
    def one(batch):
      return classifier.predict(variables, adversarial.to_float(batch))
    # Forward convolutions are as fast inside a loop as outside.
    logits = jax.lax.map(one, images)
    logits = logits.reshape(-1, spec.num_classes)
    right = labels.reshape(-1) >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits),
                                 labels.reshape(-1, 1), 1)[:, 0]
    wrong = logits.argmax(-1) != labels.reshape(-1)
    count = jnp.maximum(right.sum(), 1)
    return (logits, jnp.where(right, wrong, 0).sum() / count,
            -jnp.where(right, picked, 0).sum() / count)
  return _Programs(jax.jit(classifier.init),
                   jax.jit(classifier.step, donate_argnums=0),
                   jax.jit(evaluate))


@functools.lru_cache(None)
def _feed(frozen: str):
  """Compiles gather and augmentation of one kind of arm."""
  apply = augment.standard(**json.loads(frozen))
  def feed(bank, index, key, step):
    images = adversarial.to_float(bank.images[index])
    return apply(jax.random.fold_in(key, step), images), bank.labels[index]
  return jax.jit(feed)


def _batched(split: types.Split):
  """Pads a split to whole batches: ([n, B, H, W, C], labels [n, B])."""
  count = len(split.labels)
  size = min(EVAL_BATCH, max(count, 1))
  whole = math.ceil(count / size) * size
  images = np.zeros((whole, *split.images.shape[1:]), np.uint8)
  images[:count] = split.images
  labels = np.full(whole, -1, np.int32)
  labels[:count] = split.labels
  return (images.reshape(-1, size, *images.shape[1:]),
          labels.reshape(-1, size))


def _selection(evaluate, validation, every):
  """Returns the hook that keeps the best weights by validation error.

  Ties go to the lower cross-entropy; the test split is not looked at.
  """
  images, labels = _batched(validation)

  def run(step, state, memory, writer):
    variables = supervised.variables(state.net)
    _, error, loss = evaluate(variables, images, labels)
    writer.scalars(step, {'validation_error': error, 'validation_loss': loss})
    if (float(error), float(loss)) < (float(memory['error']),
                                      float(memory['loss'])):
      # Copies: the state is donated to the next step.
      memory = {'error': error, 'loss': loss, 'step': jnp.int32(step),
                'variables': jax.tree.map(jnp.copy, variables)}
    return memory
  return loop.Hook(every, run)


def run(folder: artefacts.Folder, *, title: str, where: str,
        spec: types.ImageSpec, model: str, arguments: dict, augmentation: dict,
        bank: Bank, plan: mixing.Plan, validation: types.Split,
        test: types.Split, steps: int, seed: int, run: int, devices,
        eval_every: int, log_every: int, save_every: int,
        identity: dict) -> dict:
  """Trains one run and reads the test split once; returns the manifest.

  Run k of every arm has the same initial weights, stream of real images and
  augmentation keys, so that arms are compared in pairs.
  """
  artefacts.begin(folder.partial, resume=True)
  programs = _programs(spec, where, model,
                       json.dumps(arguments, sort_keys=True), steps)
  feed = _feed(json.dumps(augmentation, sort_keys=True))
  key_init, key_feed, key_step = jax.random.split(
      jax.random.fold_in(jax.random.key(seed), run), 3)
  state = mesh.replicate(devices, programs.init(key_init))
  count = sum(x.size for x in jax.tree.leaves(state.net.params))

  def step(state, batch):
    i, index = batch
    return programs.step(state, *feed(bank, index, key_feed, i), key_step)

  def batches(i):
    return i, mesh.shard(devices, mixing.batch(plan, i))

  memory, hooks = {}, ()
  if len(validation.labels):
    memory = {'error': jnp.float32(jnp.inf), 'loss': jnp.float32(jnp.inf),
              'step': jnp.int32(0),
              'variables': jax.tree.map(jnp.copy,
                                        supervised.variables(state.net))}
    hooks = (_selection(programs.evaluate, validation, eval_every),)
  state, memory, seconds = loop.run(
      step, batches, state, memory, steps=steps, folder=folder.partial,
      title=title, log_every=log_every, save_every=save_every, hooks=hooks)
  chosen = memory.get('variables', supervised.variables(state.net))
  logits, error, _ = programs.evaluate(chosen, *_batched(test))
  logits = np.asarray(logits)[:len(test.labels)]
  checkpoint.write_tree(folder.partial / 'variables.npz',
                        jax.device_get(chosen))
  artefacts.save_npz(folder.partial / 'predictions.npz', logits=logits,
                     labels=np.asarray(test.labels))
  manifest = {
      **identity, 'model': model, 'parameters': count, 'steps': steps,
      'run': run, 'test_error': float(error),
      'chosen_step': int(memory['step']) if memory else steps,
      'validation_error': float(memory['error']) if memory else None,
      'real': len(plan.real), 'synthetic': len(plan.synthetic),
      'seconds': seconds}
  artefacts.finish(folder.partial, folder.final, manifest)
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  artefacts.remove(folder.final / 'checkpoints')
  return manifest


def predict(folder: artefacts.Folder, *, where: str, spec: types.ImageSpec,
            model: str, arguments: dict, steps: int,
            split: types.Split) -> np.ndarray:
  """Returns the logits [N, K] of a trained classifier on any images."""
  programs = _programs(spec, where, model,
                       json.dumps(arguments, sort_keys=True), steps)
  like = jax.eval_shape(lambda: supervised.variables(
      programs.init(jax.random.key(0)).net))
  variables = checkpoint.read_tree(folder.final / 'variables.npz', like)
  logits, _, _ = programs.evaluate(variables, *_batched(split))
  return np.asarray(logits)[:len(split.labels)]
