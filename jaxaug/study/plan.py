"""A config and its data become units of work: one folder each, in order."""
import collections
import functools
import math
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, files, registry, types
from jaxaug.data import mixing, splits
from jaxaug.evaluation import features, measure
from jaxaug.study import budget, results, schema
from jaxaug.study.stages import audit, classify, data, generate, pool, quality
from jaxaug.training import mesh

# A change of what a stage computes belongs into its hash.
_VERSIONS = {'generate': 3, 'pool': 3, 'classify': 3, 'audit': 2,
             'quality': 1}
JUDGE = 'judge'
# Steps that an accelerator takes in one call, where the config leaves it open.
_STEPS_PER_CALL = 10
# Images a class that a pool has at least, so that its obedience says something.
_LEAST = 100


class Unit(typing.NamedTuple):
  """One folder of a stage: `work()` fills it, and may fill its siblings'."""
  stage: str
  name: str
  folder: files.Folder
  steps: int
  work: typing.Callable[[], typing.Any]


class Part(typing.NamedTuple):
  """One split of the data and all that is made of it; a fold, if there are
  several."""
  number: int
  data: files.Folder
  manifest: dict
  splits: splits.Splits
  pool_sizes: dict
  units: tuple[Unit, ...]


class Study(typing.NamedTuple):
  """All that is known of a study once its data is read."""
  config: dict
  workdir: pathlib.Path
  spec: types.ImageSpec
  models: dict
  parts: tuple[Part, ...]

  @property
  def units(self) -> tuple[Unit, ...]:
    return tuple(unit for part in self.parts for unit in part.units)


def seed(config: dict, *purpose) -> int:
  """A seed of its own for everything that has a name."""
  return int(files.digest([config['seed'], *purpose])[:7], 16)


def folds(config: dict) -> int:
  """How many folds a study goes through; 1 without cross-validation."""
  given = config['data']
  return given['folds'] if given.get('folds') and given.get(
      'fold') is None else 1


def open_study(config: dict, workdir: pathlib.Path, devices,
               scratch=None) -> Study:
  """Reads the data (made first where it is not) and lists every unit.

  Args:
    config: plain, as schema.check accepts it.
    workdir: of the study.
    devices: mesh.
    scratch: where to put the data of a dry run.
  """
  parts = []
  for number in range(count := folds(config)):
    given = config['data'] | ({'fold': number} if count > 1 else {})
    name = data.key(seed=config['seed'], **given)
    folder = files.folder(workdir / 'data', name)
    if not files.is_done(folder.final):
      folder = files.folder((scratch or workdir) / 'data', name)
      data.run(folder, seed=config['seed'], **given)
    made = data.read(folder)
    parts.append(Part(number, folder, files.manifest(folder.final), made,
                      _pool_sizes(config, made), ()))
  names = parts[0].splits.class_names
  for name in config['minority']:
    errors.one_of('config.minority', name, names)
  spec = types.ImageSpec(*parts[0].manifest['shape'], len(names))
  study = Study(config, workdir, spec, {
      name: generate.build(spec, f'config.generators.{name}', block['model'],
                           schema.arguments(block))
      for name, block in config['generators'].items()}, tuple(parts))
  return study._replace(parts=tuple(
      part._replace(units=_units(study, part, devices)) for part in parts))


def _units(study: Study, part: Part, devices) -> tuple[Unit, ...]:
  generators = _generators(study, part, devices)
  pools = _pools(study, part, generators)
  judge = _judge(study, part, devices)
  audits = [_audit(study, part, name, unit, *judge)
            for name, unit in pools.items()]
  return (*generators.values(), *pools.values(), *judge, *audits,
          *_classifiers(study, part, pools, devices),
          *(_quality(study, part, name, unit, devices)
            for name, unit in pools.items()))


def _pool_sizes(config: dict, made: splits.Splits) -> dict[str, int]:
  """Images a class of each pool: as its block says, or as its arms need."""
  needed, labels = collections.Counter(), np.asarray(made.train.labels)
  for i, arm in enumerate(config['arms']):
    _, draw = mixing.class_counts(labels, class_names=made.class_names,
                                  where=f'config.arms[{i}]', **schema.how(arm))
    most = draw.max()
    if arm.get('partner') == 'synthetic':
      most = max(most, np.bincount(labels).max())
    name = arm.get('pool', '')
    needed[name] = max(needed[name], int(most))
  return {name: block['per_class'] or max(_LEAST, needed[name])
          for name, block in config['pools'].items()}


def _stride(config: dict) -> int:
  """Steps in one call at most."""
  return config['steps_per_call'] or (
      1 if jax.default_backend() == 'cpu' else _STEPS_PER_CALL)


def _name(study: Study, part: Part, name: str) -> str:
  """What a unit is called among those of all folds."""
  return f'{name}.fold{part.number}' if len(study.parts) > 1 else name


def _eye(study: Study, devices) -> features.FeatureExtractor:
  """Returns the network that looks at generated images."""
  block = study.config['evaluation']
  return _opened_eye(block['extractor'], block['weights'],
                     block['batch_size'], devices)


@functools.lru_cache(1)
def _opened_eye(name, file, batch_size, devices) -> features.FeatureExtractor:
  extractor = registry.build(
      'extractors', name, {'weights': file} if file else {},
      'config.evaluation', key='extractor')
  return features.extractor(extractor, devices, batch_size)


def _quality(study: Study, part: Part, name: str, source: Unit,
             devices) -> Unit:
  """Measures a pool beside the real splits."""
  eye, block = _eye(study, devices), study.config['evaluation']
  digests = part.manifest['digests']
  key = files.digest([
      _VERSIONS['quality'], source.folder.final.name, eye.identity,
      block['metrics'], digests['train'], digests['test']])
  folder = files.folder(study.workdir / 'quality', f'{name}-{key}')
  def work():
    judge, fit = study.config['judge'], None
    if 'fit' in measure.needs(measure.blocks(block['metrics'])):
      fit = classify.fitter(
          judge_network(study), batch_size=judge['batch_size'],
          steps=_base_steps(judge, len(part.splits.train.labels)),
          seed=seed(study.config, 'fit'), devices=devices)
    return quality.run(
        folder, name=_name(study, part, name), eye=eye, fit=fit,
        sets={'pool': pool.read(source.folder), 'train': part.splits.train,
              'test': part.splits.test},
        metrics=block['metrics'], cache=features.cache())
  return Unit('evaluate', name, folder, 0, work)


def _generators(study: Study, part: Part, devices) -> dict[str, Unit]:
  config, units, train = study.config, {}, part.splits.train
  curve = config['curve']
  chosen_by = [curve, config['collapse'], _eye(study, devices).identity,
               part.manifest['digests']['validation']] if (
                   config['generators'] and curve['every']) else None
  for name, block in config['generators'].items():
    own = seed(config, 'generator', name)
    key = files.digest([
        _VERSIONS['generate'], study.spec, part.manifest['digests']['train'],
        block, own, config['log_every'], chosen_by])
    folder = files.folder(study.workdir / 'generate', f'{name}-{key}')
    def work(name=name, block=block, own=own, folder=folder):
      return generate.run(
          folder, name=_name(study, part, name), spec=study.spec, train=train,
          train_digest=part.manifest['digests']['train'],
          model=study.models[name], steps=block['steps'],
          batch_size=block['batch_size'], seed=own, devices=devices,
          log_every=config['log_every'], save_every=config['save_every'],
          sample_every=config['sample_every'], stride=_stride(config),
          curve=generate.curve(
              _eye(study, devices), part.splits.validation,
              study.spec.num_classes, train=train,
              collapse=config['collapse'], **curve) if chosen_by else None)
    if block['batch_size'] > len(train.labels):
      raise errors.InputError(
          f'config.generators.{name}.batch_size: {block["batch_size"]}; '
          f'expected at most {len(train.labels)}, the number of training '
          'images.')
    units[name] = Unit('generate', name, folder, block['steps'], work)
  return units


def _pools(study: Study, part: Part, generators) -> dict[str, Unit]:
  units, config = {}, study.config
  for name, block in config['pools'].items():
    source = generators[block['generator']]
    own, size = seed(config, 'pool', name), part.pool_sizes[name]
    key = files.digest([
        _VERSIONS['pool'], source.folder.final.name, block, size, own,
        part.splits.class_names])
    folder = files.folder(study.workdir / 'pools', f'{name}-{key}')
    select = registry.build(
        'selectors', block['selector'], schema.arguments(block, schema.POOL),
        f'config.pools.{name}', part.splits.train, key='selector')
    def work(name=name, block=block, own=own, folder=folder, source=source,
             select=select, size=size):
      model = study.models[block['generator']]
      return pool.run(
          folder, name=_name(study, part, name), spec=study.spec, model=model,
          variables=generate.read(source.folder, model),
          generator=block['generator'],
          generator_key=source.folder.final.name, data=part.splits, seed=own,
          selector=block['selector'], per_class=size,
          batch_size=block['batch_size'], select=select)
    units[name] = Unit('pool', name, folder, 0, work)
  return units


def judge_network(study: Study) -> classify.Network:
  """The network of the judge."""
  block = study.config['judge']
  return classify.network(study.spec, 'config.judge', block['model'],
                          schema.arguments(block, schema.JUDGE))


def _audit(study: Study, part: Part, name: str, source: Unit,
           judge: Unit) -> Unit:
  """Looks for copies of real images in a pool, also by the judge's features."""
  key = files.digest([
      _VERSIONS['audit'], source.folder.final.name, judge.folder.final.name])
  folder = files.folder(study.workdir / 'audit', f'{name}-{key}')
  def features(images):
    return classify.features(judge.folder, judge_network(study), images)
  def work():
    return audit.run(folder, name=_name(study, part, name),
                     pool=pool.read(source.folder), train=part.splits.train,
                     test=part.splits.test, features=features)
  return Unit('audit', name, folder, 0, work)


def _pool_labels(study: Study, part: Part, name: str):
  """A pool's labels, known before it is drawn."""
  return np.repeat(np.arange(study.spec.num_classes), part.pool_sizes[name])


def _pool_starts(study: Study, part: Part) -> dict[str, int]:
  """Where each pool will lie in the bank: behind the real images, in order."""
  starts, start = {'': 0}, len(part.splits.train.labels)
  for name, size in part.pool_sizes.items():
    starts[name] = start
    start += size * study.spec.num_classes
  return starts


def _bank(pieces, devices) -> classify.Bank:
  """Lays images end to end on the device."""
  return classify.Bank(*mesh.replicate(devices, (
      np.concatenate([piece.images for piece in pieces]),
      np.concatenate([piece.labels for piece in pieces]))))


@functools.lru_cache(1)  # One fold's at a time.
def _arm_bank(source: files.Folder, pools: tuple, devices):
  """Returns the bank of all arms: real training images, then every pool."""
  seen = files.manifest(source.final)['digests']['train']
  pieces = [data.read(source).train]
  for folder in pools:
    results.overlap(seen, files.manifest(folder.final), folder.final)
    pieces.append(pool.read(folder))
  return _bank(pieces, devices)


def _plan(study: Study, part: Part, i: int, run: int, batch_size: int):
  """Returns the plan of run `run` of the i-th arm."""
  arm, names = study.config['arms'][i], part.splits.class_names
  own = (seed(study.config, 'batches'), run)
  real = np.asarray(part.splits.train.labels)
  name = arm.get('pool', '')
  drawn = _pool_labels(study, part, name) if name else None
  start = _pool_starts(study, part)[name]
  partner = arm.get('partner') == 'synthetic'
  mixed = mixing.compose(real, drawn, class_names=names, seed=own,
                         partner=partner, where=f'config.arms[{i}]',
                         **schema.how(arm))
  partners = None
  if partner:
    labels = np.concatenate([real, *(_pool_labels(study, part, other)
                                     for other in part.pool_sizes)])
    partners = labels, start + np.arange(len(drawn))
  return mixing.plan(mixed, pool_start=start, batch_size=batch_size, seed=own,
                     partners=partners)


def _treatment(study: Study, part: Part, arm: dict,
               plan: mixing.Plan) -> classify.Treatment:
  """Returns what an arm does to its batches and to the loss."""
  labels = np.concatenate([
      np.asarray(part.splits.train.labels),
      *(_pool_labels(study, part, name) for name in part.pool_sizes)])
  counts = np.bincount(labels[np.concatenate([plan.real, plan.synthetic])],
                       minlength=study.spec.num_classes)
  name = arm.get('augment')
  return classify.treatment(
      study.config['augmentations'][name] if name else {},
      mixing.class_weights(counts, arm.get('class_weights', 0.0)),
      mixing.log_prior(counts, arm.get('logit_adjustment', 0.0)),
      mix=arm.get('mix', ''), mix_alpha=arm.get('mix_alpha', 1.0),
      partner=arm.get('partner', 'batch'))


def _base_steps(block: dict, images: int) -> int:
  """Steps of a block's baseline, of so many real training images."""
  return block['steps'] or max(
      1, round(block['epochs'] * images / block['batch_size']))


@functools.cache
def _generator_flops(model: types.GenerativeModel, spec: types.ImageSpec,
                     batch_size: int) -> int:
  """Operations of one step of a generative model."""
  lead = model.d_steps, batch_size
  batch = {'image': jax.ShapeDtypeStruct((*lead, *spec[:3]), jnp.uint8),
           'label': jax.ShapeDtypeStruct(lead, jnp.int32)}
  return budget.flops(model.step, jax.eval_shape(model.init, jax.random.key(0)),
                    batch, jax.random.key(0))


def _generator_cost(study: Study, arm: dict) -> int:
  """Operations that training an arm's generator took; 0 without one."""
  if not arm.get('pool'):
    return 0
  name = study.config['pools'][arm['pool']]['generator']
  block = study.config['generators'][name]
  return block['steps'] * _generator_flops(study.models[name], study.spec,
                                           block['batch_size'])


def _steps(study: Study, arm: dict, base: int, plan, images: int,
           step_flops) -> int:
  """Returns how many steps an arm takes under the study's budget.

  steps: all the same. epochs: as often through its own images as the baseline
  through its own. compute: what its generator cost less than the dearest one
  of the study, it has as steps.
  """
  budget = study.config['budget']
  if budget == 'epochs':
    mine = len(plan.real) + len(plan.synthetic)
    return max(1, round(base * mine / images))
  if budget == 'compute':
    dearest = max(_generator_cost(study, other)
                  for other in study.config['arms'])
    spare = dearest - _generator_cost(study, arm)
    return base + (math.ceil(spare / step_flops()) if spare else 0)
  return base


def _classifiers(study: Study, part: Part, pools: dict[str, Unit], devices):
  """Yields every run of every arm of every classifier."""
  config, images = study.config, len(part.splits.train.labels)
  folders = tuple(unit.folder for unit in pools.values())
  def bank():
    return _arm_bank(part.data, folders, devices)
  for name, block in config['classifiers'].items():
    where, size = f'config.classifiers.{name}', block['batch_size']
    net = classify.network(study.spec, where, block['model'],
                           schema.arguments(block, schema.CLASSIFIER))
    classify.check_batch(net, size)
    base = _base_steps(block, images)
    flops = functools.cache(functools.partial(classify.step_flops, net, size))
    for i, arm in enumerate(config['arms']):
      with registry.within(where):
        plans = [_plan(study, part, i, run, size)
                 for run in range(config['runs'])]
      drawn = pools[arm['pool']].folder.final.name if arm.get('pool') else ''
      steps = _steps(study, arm, base, plans[0], images, flops)
      yield from _runs(study, part, f'{name}.{arm["name"]}', net, block, arm,
                       _treatment(study, part, arm, plans[0]), plans, bank,
                       drawn, steps, devices)


def _runs(study: Study, part: Part, name, net, block, arm, treatment, plans,
          bank, drawn, steps, devices, stage='classify'):
  """Yields the runs of one arm as units; `drawn` names the pool's folder."""
  config = study.config
  own, jobs = seed(config, 'classifier'), []
  for run, plan in enumerate(plans):
    key = files.digest([
        _VERSIONS['classify'], study.spec,
        [part.manifest['digests'][split] for split in
         ('train', 'validation', 'test')],
        block, data.fingerprint(block.get('weights')), steps, schema.how(arm),
        treatment.key(), drawn, own, run,
        plan.seed, config['eval_every'], config['log_every']])
    label = _name(study, part, name) if stage == JUDGE else (
        f'{_name(study, part, name)}.{run}')
    jobs.append(classify.Job(
        files.folder(study.workdir / 'classify', f'{label}-{key}'), run,
        plan, {'arm': arm['name'], 'seeds': [config['seed'], run]}))
  together = config['runs_at_once'] == 'yes' or (
      config['runs_at_once'] == 'auto' and jax.default_backend() != 'cpu')
  for job in jobs:
    title = _name(study, part, name)
    if stage != JUDGE and not together:
      title += f'.{job.run}'
    def work(mine=tuple(jobs) if together else (job,), title=title):
      return classify.run(
          mine, title=f'{stage} {title}', net=net,
          treatment=treatment, bank=bank(), validation=part.splits.validation,
          test=part.splits.test, steps=steps, seed=own, devices=devices,
          eval_every=config['eval_every'], log_every=config['log_every'],
          save_every=config['save_every'], stride=_stride(config))
    unit = f'{name}.{job.run}' if stage != JUDGE else name
    yield Unit(stage, unit, job.folder, steps, work)


def _judge(study: Study, part: Part, devices) -> tuple[Unit, ...]:
  """Returns the judge: a classifier of all the real images there are.

  Only where there is a pool to judge. Images that the low-data subset left
  out serve here and nowhere else.
  """
  if not study.config['pools']:
    return ()
  block = study.config['judge']
  pieces = [part.splits.train, part.splits.unused]
  count = sum(len(piece.labels) for piece in pieces)
  with registry.within('config.judge'):
    plan = mixing.plan(
        mixing.everything(count), pool_start=0, batch_size=block['batch_size'],
        seed=(seed(study.config, JUDGE),))
  net = judge_network(study)
  classify.check_batch(net, block['batch_size'])
  name, classes = block.get('augment'), study.spec.num_classes
  treatment = classify.treatment(
      study.config['augmentations'][name] if name else {}, np.ones(classes),
      np.zeros(classes))
  return tuple(_runs(
      study, part, JUDGE, net, block, {'name': JUDGE}, treatment, [plan],
      lambda: _bank(pieces, devices), part.manifest['digests']['unused'],
      _base_steps(block, count), devices, stage=JUDGE))
