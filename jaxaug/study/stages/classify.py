"""A classifier learns from an arm; its test predictions, once a run."""
import functools
import typing

import numpy as np

from jaxaug.core import files, memory, registry
from jaxaug.data import mixing
from jaxaug.study import arms, budget, schema
from jaxaug.study import tasks as study_tasks
from jaxaug.study.stages import generate
from jaxaug.training import bank as banks
from jaxaug.training import fit, metrics_log

# A change of what this stage computes belongs into its key.
VERSION = 4


class Run(typing.NamedTuple):
  """A finished run: logits [N, K] and labels [N] of the test split, logs."""
  manifest: dict
  logits: np.ndarray
  labels: np.ndarray
  records: list[dict]


class _Bank(typing.NamedTuple):
  """The images of a fold's arms: real ones, then every pool.

  labels: int32 [N] on the host. pools: pool -> (where it begins, its labels).
  """
  images: banks.Bank
  labels: np.ndarray
  pools: dict[str, tuple[int, np.ndarray]]


def task_name(classifier: str, arm: arms.Arm, run: int) -> str:
  """What a run is called among the tasks of this stage."""
  return f'{classifier}.{arm.name}.{run}'


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns every run of every arm of every classifier."""
  pools, out = made['pool'], []
  bank = functools.partial(_bank, fold.data, tuple(pools.values()),
                           study.machine.devices)
  # Not one image of a pool that nobody has held against the test split.
  needs = {arm.name: (pools[arm.pool], made['audit'][arm.pool])
           if arm.pool else () for arm in study.arms}
  spare = _spare(study, made)
  for name, block in study.config['classifiers'].items():
    where = f'config.classifiers.{name}'
    net = fit.network(study.spec, where, block['model'],
                      schema.arguments(block, schema.CLASSIFIER))
    fit.check_batch(net, block['batch_size'])
    for i, arm in enumerate(study.arms):
      counts = sum(_counts(study, fold, i))
      memory.check(f'config.arms[{i}]', 8 * int(counts.sum()),
                   f'an order of {counts.sum()} images')
      with registry.within(where):
        mixing.check_batch(block['batch_size'], counts.sum())
      drawn = pools[arm.pool].key if arm.pool else ''
      out += [task._replace(needs=needs[study.arms[i].name], where=where)
              for task in _runs(study, fold, name, net, i, counts, drawn,
                                spare, bank)]
  return out


def _counts(study, fold, i: int) -> tuple[np.ndarray, np.ndarray]:
  """Real and generated images of each class in the i-th arm."""
  arm, names = study.arms[i], fold.splits.class_names
  there = fold.pool_sizes[arm.pool] if arm.pool else None
  return mixing.check(fold.labels, there, class_names=names,
                      partner=arm.with_partners, where=f'config.arms[{i}]',
                      **arm.how)


def _runs(study, fold, name, net, i, counts, drawn, spare, bank):
  """Yields the runs of one arm of one classifier.

  counts: int [K], the arm's images. drawn: the key of its pool, or ''. spare:
  of `_spare`. bank(): all images.
  """
  config, arm, machine = study.config, study.arms[i], study.machine
  block = config['classifiers'][name]
  treatment = arms.treat(arm, config['augmentations'], counts,
                         f'config.arms[{i}]')
  seed, order = study.seed('classifier'), study.seed('batches')
  steps = budget.steps(
      config['budget'], budget.base_steps(block, len(fold.labels)),
      images=len(fold.labels), mine=int(counts.sum()), spare=spare[arm.name],
      step_cost=functools.partial(budget.classifier_flops, net,
                                  block['batch_size']))
  label = fold.label(f'{name}.{arm.name}')
  folders = [study.folder('classify', f'{label}.{run}', [
      VERSION, net.key(), study.spec,
      fold.digests('train', 'validation', 'test'), block, steps, arm.how,
      treatment.key(),
      drawn, seed, order, run, config['eval_every'], config['log_every']])
      for run in range(config['runs'])]

  def work(runs, title):
    images = bank()
    fit.train(
        [fit.Job(folders[run], run,
                 _plan(fold, i, arm, images, block['batch_size'], (order, run)),
                 {'arm': arm.name, 'seeds': [config['seed'], run]})
         for run in runs],
        title=f'classify {title}', net=net, treatment=treatment,
        bank=images.images, validation=fold.splits.validation,
        test=fold.splits.test, steps=steps, seed=seed, devices=machine.devices,
        eval_every=config['eval_every'], log_every=config['log_every'],
        save_every=machine.save_every, steps_per_call=machine.steps_per_call)

  together = machine.together and len(folders) > 1
  for run, folder in enumerate(folders):
    runs, title = [run], f'{label}.{run}'
    if together:
      runs, title = range(config['runs']), label
    yield study_tasks.Task(
        'classify', task_name(name, arm, run), folder,
        functools.partial(work, runs, title),
        functools.partial(read, folder), steps,
        site=fit.together(folders) if together else None,
        size=functools.partial(study_tasks.of_training, net, fold,
                               len(runs)))


def _spare(study, made: dict) -> dict[str, int]:
  """Returns arm -> operations that its generator took less than the dearest.

  Zeros where the budget does not ask.
  """
  if study.config['budget'] != 'compute':
    return {arm.name: 0 for arm in study.arms}
  generators, pools = study.config['generators'], study.config['pools']
  cost = {name: len(generate.of(name, made)) * budget.generator_flops(
      study.models[name], study.spec, block['batch_size'], block['steps'])
          for name, block in generators.items()}
  # One that somebody else made costs nothing here.
  cost[''] = 0
  taken = {arm.name: cost[pools[arm.pool]['generator']] if arm.pool else 0
           for arm in study.arms}
  return {name: max(taken.values()) - mine for name, mine in taken.items()}


def _plan(fold, i: int, arm: arms.Arm, bank: _Bank, batch_size: int,
          seed: tuple[int, int]) -> mixing.Plan:
  """Returns the plan of one run of the i-th arm."""
  start, drawn = bank.pools[arm.pool] if arm.pool else (0, None)
  mixed = mixing.compose(
      fold.labels, drawn, class_names=fold.splits.class_names, seed=seed,
      partner=arm.with_partners, where=f'config.arms[{i}]', **arm.how)
  partners = None
  if arm.with_partners:
    partners = bank.labels, start + np.arange(len(drawn))
  return mixing.plan(mixed, pool_start=start, batch_size=batch_size, seed=seed,
                     partners=partners)


_banks: dict[tuple, _Bank] = {}  # One fold's at a time, by its folders.


def _bank(data: study_tasks.Task, pools: tuple[study_tasks.Task, ...],
          devices) -> _Bank:
  """Returns the images of all arms, laid end to end once.

  A pool that failed has no place in it.
  """
  pools = tuple(task for task in pools if task.done)
  key = data.folder, tuple(task.folder for task in pools), devices
  if key not in _banks:
    _banks.clear()
    _banks[key] = _read_bank(data, pools, devices)
  return _banks[key]


def _read_bank(data, pools, devices) -> _Bank:
  pieces, starts, start = [data.read().train], {}, 0
  for task in pools:
    start += len(pieces[-1].labels)
    pieces.append(task.read())
    starts[task.name] = start, pieces[-1].labels
  bank = banks.make(devices, *(piece[:2] for piece in pieces))
  return _Bank(bank, np.asarray(bank.labels), starts)


def read(folder: files.Folder) -> Run:
  """Returns a finished run."""
  arrays = files.load_npz(folder.final / 'predictions.npz')
  return Run(files.manifest(folder.final), arrays['logits'], arrays['labels'],
             metrics_log.read(folder.final))
