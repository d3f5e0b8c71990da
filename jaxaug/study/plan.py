"""A config and its data become tasks, in the order of the work."""
import collections
import pathlib

import jax
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import mixing, origins
from jaxaug.study import arms, imports, selection, tasks
from jaxaug.study.stages import (
  audit,
  classify,
  data,
  generate,
  judge,
  pool,
  quality,
  represent,
)
from jaxaug.training import mesh

# After `data`, which a study must have read before it knows its tasks.
STAGES = {'represent': represent, 'generate': generate, 'pool': pool,
          'judge': judge, 'audit': audit, 'classify': classify,
          'quality': quality}
# Steps that an accelerator takes in one call, where the config leaves it open.
_STEPS_PER_CALL = 10
# Images a class that a pool has at least, so that its obedience says something.
_LEAST = 100


def machine(config: dict) -> tasks.Machine:
  """Returns how the work is done: a mesh that every batch can be split over."""
  # What learns from one image each has no batch to split.
  blocks = (*(block for block in config['generators'].values()
              if not block['representatives']),
            *config['classifiers'].values(), config['judge'])
  devices = mesh.make(batch_sizes=[
      block['batch_size'] // (block.get('accumulate') or 1) or 1
      for block in blocks])
  on_cpu = jax.default_backend() == 'cpu'
  return tasks.Machine(
      devices,
      config['steps_per_call'] or (1 if on_cpu else _STEPS_PER_CALL),
      config['runs_at_once'] == 'yes' or (
          config['runs_at_once'] == 'auto' and not on_cpu),
      config['save_every'], config['sample_every'])


def open_study(config: dict, workdir: pathlib.Path,
               scratch: pathlib.Path | None = None) -> tasks.Study:
  """Reads the data (made first where it is not) and lists every task.

  Args:
    config: plain, as schema.check accepts it.
    workdir: of the study.
    scratch: where to put the data of a dry run.
  """
  chosen = arms.read(config['arms'])
  folds = []
  there = data.tasks(config, workdir)
  instead = data.tasks(config, scratch) if scratch else there
  for task, other in zip(there, instead, strict=True):
    if not task.done:
      task = other
      task.work()
    number = len(folds) if data.folds(config) > 1 else None
    folds.append(tasks.Fold(number, task, task.read()))
  names = folds[0].splits.class_names
  for name in config['minority']:
    errors.one_of('config.minority', name, names)
  spec = types.ImageSpec(*folds[0].splits.report['shape'], len(names))
  models = generate.models(config, spec, names)
  brought = {name: imports.find(block, spec, names, f'config.pools.{name}')
             for name, block in config['pools'].items()
             if imports.is_import(block)}
  folds = tuple(fold._replace(brought=brought, pool_sizes=_pool_sizes(
      config, chosen, models, brought, fold.splits)) for fold in folds)
  study = tasks.Study(config, workdir, spec, chosen, models, machine(config),
                      folds)
  return study._replace(tasks=tuple(_tasks(study, fold) for fold in folds))


def _tasks(study: tasks.Study, fold: tasks.Fold) -> dict:
  """Returns stage -> its tasks by name; each stage sees those before it."""
  made = {'data': {fold.data.name: fold.data}}
  for stage, module in STAGES.items():
    made[stage] = {task.name: task._replace(title=fold.title(task.name))
                   for task in module.tasks(study, fold, made)}
  return made


def _pool_sizes(config: dict, chosen, models: dict, brought: dict,
                made) -> dict[str, np.ndarray]:
  """Images of each class in each pool, int64 [K], at least.

  As its block says, or as its arms need; none of a class that its generator
  does not make. Of a pool that is brought all that there are, where nothing
  screens it.
  """
  needed, labels = collections.Counter(), np.asarray(made.train.labels)
  screened = {name for name in brought if config['pools'][name]['selectors']}
  count = len(made.class_names)
  there = {name: np.bincount(found.labels, minlength=count)
           for name, found in brought.items()}
  for i, arm in enumerate(chosen):
    where = f'config.arms[{i}]'
    if arm.add_per_class == 'all' and arm.pool in screened | (
        config['pools'].keys() - brought.keys()):
      raise errors.InputError(
          f"{where}.add_per_class: 'all', and how many images pool "
          f'{arm.pool!r} has is known only when it is made; expected a count.')
    _, draw = mixing.class_counts(
        labels, class_names=made.class_names, where=where,
        pool_counts=there.get(arm.pool), **arm.how)
    most = draw
    if arm.with_partners:
      most = np.maximum(most, np.bincount(labels).max())
    needed[arm.pool] = np.maximum(needed[arm.pool], most)
  def sizes(name, block):
    if name in brought:
      wanted = there[name]
      if block['per_class']:
        wanted = np.minimum(wanted, block['per_class'])
      # Those that selectors must leave.
      return np.minimum(wanted, needed[name]) if name in screened else wanted
    makes = np.zeros(len(made.class_names), np.int64)
    makes[[*_makes(config, models, block['generator'], made.class_names)]] = 1
    return makes * (block['per_class'] or max(_LEAST, np.max(needed[name])))
  return {name: sizes(name, block) for name, block in config['pools'].items()}


def _makes(config: dict, models: dict, name: str, class_names):
  """Returns the classes that a generator makes."""
  model = models[name]
  if model.per_image:
    selector = selection.named(
        config, config['generators'][name]['representatives'],
        f'config.generators.{name}.representatives')
    return selection.numbers(
        selector.block['classes'], class_names, f'{selector.where}.classes'
        ) or range(len(class_names))
  return origins.made(model, len(class_names))
