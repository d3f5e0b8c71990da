"""The judge: a classifier of all the real images that there are.

It measures whether samples show the class that was asked for, and its features
tell copies. Images that the low-data subset left out serve here and nowhere
else.
"""
import functools
import typing

from jaxaug.core import files, registry
from jaxaug.data import mixing
from jaxaug.study import budget, schema
from jaxaug.study import tasks as study_tasks
from jaxaug.training import bank as banks
from jaxaug.training import fit

# A change of what this stage computes belongs into its key.
VERSION = 4
NAME = 'judge'


class Judge(typing.NamedTuple):
  """A trained judge.

  predict(uint8 [N, H, W, C]) -> logits [N, K].
  features(uint8 [N, H, W, C]) -> float32 [N, F], what its last layer sees.
  """
  manifest: dict
  predict: typing.Callable
  features: typing.Callable


def network(study: study_tasks.Study) -> fit.Network:
  """The network of the judge."""
  block = study.config['judge']
  return fit.network(study.spec, 'config.judge', block['model'],
                     schema.arguments(block, schema.JUDGE))


def fitter(study: study_tasks.Study,
           fold: study_tasks.Fold) -> tuple[typing.Callable, dict]:
  """Returns what trains classifiers like it, see fit.fitter, and its key.

  As long as the judge would learn from the training split.
  """
  block, net = study.config['judge'], network(study)
  trains = {'steps': budget.base_steps(block, len(fold.labels)),
            'batch_size': block['batch_size'], 'seed': study.seed('fit')}
  return (fit.fitter(net, devices=study.machine.devices, **trains),
          trains | {'network': net.key()})


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns the judge, where there is a pool to judge."""
  if not made['pool']:
    return []
  config, block, machine = study.config, study.config['judge'], study.machine
  pieces = [fold.splits.train, fold.splits.unused]
  count = sum(len(piece.labels) for piece in pieces)
  order, seed = study.seed(NAME), study.seed('classifier')
  with registry.within('config.judge'):
    plan = mixing.plan(mixing.everything(count), pool_start=0,
                       batch_size=block['batch_size'], seed=(order,))
  net = network(study)
  fit.check_batch(net, block['batch_size'])
  augmentation = config['augmentations'].get(block.get('augment'), {})
  treatment = fit.plain(study.spec.num_classes, fit.pairs(augmentation))
  steps = budget.base_steps(block, count)
  folder = study.folder('judge', fold.label(NAME), [
      VERSION, net.key(), study.spec,
      fold.digests('train', 'validation', 'test', 'unused'),
      block, steps, treatment.key(), order, seed, config['eval_every'],
      config['log_every']])

  def work():
    bank = banks.make(machine.devices, *(piece[:2] for piece in pieces))
    fit.train(
        [fit.Job(folder, 0, plan, {'arm': NAME, 'seeds': [config['seed'], 0]})],
        title=fold.label(NAME), net=net, treatment=treatment,
        bank=bank, validation=fold.splits.validation, test=fold.splits.test,
        steps=steps, seed=seed, devices=machine.devices,
        eval_every=config['eval_every'], log_every=config['log_every'],
        save_every=machine.save_every, steps_per_call=machine.steps_per_call)
  return [study_tasks.Task('judge', NAME, folder, work,
                           functools.partial(read, folder, net), steps,
                           size=functools.partial(study_tasks.of_training, net,
                                                  fold),
                           where='config.judge')]


def read(folder: files.Folder, net: fit.Network) -> Judge:
  """Returns the judge that `tasks` trained."""
  variables = fit.read(folder, net)
  return Judge(files.manifest(folder.final),
               functools.partial(fit.predict, net, variables),
               functools.partial(fit.features, net, variables))
