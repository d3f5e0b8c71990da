"""What a config may say: refuses at the door what needs no data to be wrong."""
from jaxaug.augment import standard
from jaxaug.core import errors, registry
from jaxaug.data import splits
from jaxaug.evaluation import features, measure
from jaxaug.study import arms, budget, sections, verdicts

# Keys of a block that do not go to its part.
LOOP, CLASSIFIER, JUDGE, SELECTOR, POOL = (
    tuple(sections.BLOCKS[name])
    for name in ('generators', 'classifiers', 'judge', 'selectors', 'pools'))
# Of runs and of folds.
_MOST = 1000
PUBLISHED = ('classifier', 'arm', 'value', 'n', 'metric', 'source',
             'difference')


def arguments(block: dict, own=LOOP) -> dict:
  """Returns the part of a block that goes to its part."""
  return {k: v for k, v in block.items() if k not in own}


def data_arguments(*, source: str, resize=None, crop=None, **given):
  """Sorts the keys of `config.data` by who takes them.

  Returns:
    (load, load's arguments, splits.make's arguments).

  Raises:
    InputError: an unknown source, or a key that neither takes.
  """
  load = registry.find('datasets', source, 'config.data.source').load
  takes, cuts = registry.arguments(load), registry.arguments(splits.make)
  given = {k: v for k, v in given.items() if v is not None}
  for key in given:
    if key not in takes and key not in cuts:
      raise errors.InputError(
          f'config.data.{key}: source {source!r} does not take it; expected '
          f'one of {", ".join(takes) or "none"}.')
  load_args = {k: v for k, v in given.items() if k in takes}
  load_args |= {k: v for k, v in (('resize', resize), ('crop', crop))
                if k in takes and v is not None}
  registry.check(load, load_args, 'config.data')
  return load, load_args, {k: v for k, v in given.items() if k in cuts}


def _named(value, known, where: str, what: str):
  if value not in known:
    raise errors.InputError(
        f'{where}: there is no {what} {value!r}; expected one of '
        f'{", ".join(known) or "none: the study has none"}.'
        f'{errors.nearest(value, known)}')


def _folder_name(name: str, where: str):
  if '/' in name or name.startswith('.') or not name.isprintable() or not name:
    raise errors.InputError(
        f'{where}: {name!r}; expected a name without "/" that can be a folder.')


def _check_arms(config: dict):
  """Refuses arms that name what the study does not have."""
  chosen = arms.read(config['arms'])
  names = [arm.name for arm in chosen]
  for i, arm in enumerate(chosen):
    where = f'config.arms[{i}]'
    _folder_name(arm.name, f'{where}.name')
    for key, known, what in (
        ('pool', config['pools'], 'pool'),
        ('augment', config['augmentations'], 'augmentation'),
        ('baseline', [n for n in names if n != arm.name], 'other arm')):
      if getattr(arm, key):
        _named(getattr(arm, key), known, f'{where}.{key}', what)
    arms.check(arm, where)
  _named(config['baseline'], names, 'config.baseline', 'arm')


def _check_published(config: dict):
  """Refuses figures of what the study does not have, or without their words."""
  names = [arm['name'] for arm in config['arms']]
  metrics = verdicts.metrics(config['metric'], config['minority'])
  for i, figure in enumerate(config['published']):
    where = f'config.published[{i}]'
    if not isinstance(figure, dict) or set(figure) != set(PUBLISHED):
      near = errors.nearest(next(iter(set(figure) - set(PUBLISHED)), ''),
                            PUBLISHED) if isinstance(figure, dict) else ''
      raise errors.InputError(
          f'{where}: {figure!r}; expected what common.published returns.{near}')
    _named(figure['classifier'], config['classifiers'], f'{where}.classifier',
           'classifier')
    _named(figure['arm'], names, f'{where}.arm', 'arm')
    _named(figure['metric'], metrics, f'{where}.metric', 'metric')
    number = metrics[figure['metric']].VALUES[figure['metric']]
    errors.between(f'{where}.value', figure['value'], 0,
                   1 if number.unit == '%' else float('inf'))
    errors.count(f'{where}.n', figure['n'])
    for key in ('source', 'difference'):
      if not isinstance(figure[key], str) or not figure[key].strip():
        raise errors.InputError(
            f'{where}.{key}: {figure[key]!r}; expected some words.')


def _check_length(block: dict, where: str):
  """A classifier's block has its length in steps or in epochs."""
  steps, epochs = block['steps'], block.get('epochs', 0)
  if bool(steps) == bool(epochs):
    raise errors.InputError(
        f'{where}: steps {steps!r} and epochs {epochs!r}; expected one of them '
        'above 0, and the other 0.')
  if steps:
    errors.count(f'{where}.steps', steps)
  else:
    errors.positive(f'{where}.epochs', epochs)


def _check_import(block: dict, where: str):
  """Refuses what a pool that somebody else made cannot be."""
  if block['generator'] or block['draw']:
    raise errors.InputError(
        f'{where}: has a source, and also a generator or how it draws; '
        'expected one of the two.')
  load = registry.find('datasets', block['source'], f'{where}.source').load
  registry.check(load, arguments(block, POOL), where, also=POOL)


def _check_selectors(config: dict, names, where: str):
  """Refuses names of no selector, and one twice."""
  known = [*config['selectors'], *registry.names('selectors')]
  for name in names:
    _named(name, known, where, 'selector')
  errors.once(where, names)


def _check_blocks(config: dict):
  for name, block in config['selectors'].items():
    where = f'config.selectors.{name}'
    selector = registry.find('selectors', block['selector'],
                             f'{where}.selector')
    registry.check(selector.build, arguments(block, SELECTOR), where,
                   also=SELECTOR)
    if block['extractor']:
      registry.find('extractors', block['extractor'], f'{where}.extractor')
    elif block['weights']:
      raise errors.InputError(
          f'{where}.weights: {block["weights"]!r}; expected \'\', or '
          f'{where}.extractor, which they are of.')
  judge = config['judge']
  if judge.get('augment'):
    _named(judge['augment'], config['augmentations'], 'config.judge.augment',
           'augmentation')
  for kind, where, block in (
      *(('generators', f'config.generators.{name}', block)
        for name, block in config['generators'].items()),
      *(('classifiers', f'config.classifiers.{name}', block)
        for name, block in config['classifiers'].items()),
      ('classifiers', 'config.judge', judge)):
    registry.find(kind, block['model'], f'{where}.model')
    errors.count(f'{where}.batch_size', block['batch_size'])
    if kind == 'classifiers':
      _check_length(block, where)
      errors.count(f'{where}.accumulate', block.get('accumulate', 1))
    else:
      errors.count(f'{where}.steps', block['steps'])
      if block['representatives']:
        _check_selectors(config, [block['representatives']],
                         f'{where}.representatives')
  if not config['classifiers']:
    raise errors.InputError('config.classifiers: empty; expected at least one.')
  for name, block in config['pools'].items():
    where = f'config.pools.{name}'
    if block.get('source'):
      _check_import(block, where)
    else:
      _named(block['generator'], config['generators'], f'{where}.generator',
             'generator')
    _check_selectors(config, block['selectors'], f'{where}.selectors')
    errors.count(f'{where}.per_class', block['per_class'], least=0)
    errors.count(f'{where}.batch_size', block['batch_size'])


def _check_evaluation(config: dict):
  """Refuses what cannot look at generated images."""
  block, curve = config['evaluation'], config['curve']
  registry.find('extractors', block['extractor'], 'config.evaluation.extractor')
  errors.count('config.evaluation.batch_size', block['batch_size'])
  measure.blocks(block['metrics'], 'config.evaluation.metrics')
  for key, least in (('every', 0), ('images', 2)):
    errors.count(f'config.curve.{key}', curve[key], least)
  for key, share in config['collapse'].items():
    errors.between(f'config.collapse.{key}', share, 0, 1, below=True)
  chosen = measure.blocks([curve['metric']], 'config.curve.metric')
  known = [name for name, other in measure.blocks(
      registry.names('image_metrics')).items() if _can_choose(other)]
  errors.one_of('config.curve.metric', *chosen, known)


def _can_choose(block) -> bool:
  """Whether a metric is one number that is better the lower it is."""
  return [number.lower_is_better for number in block.VALUES.values()] == [
      True] and not set(block.NEEDS) - set(features.EXTRACTED)


def check(config: dict):
  """Raises InputError for what is wrong whatever the data is."""
  _folder_name(config['name'], 'config.name')
  errors.count('config.runs', config['runs'])
  errors.count('config.data.folds', config['data'].get('folds') or 0, least=0)
  for key in ('log_every', 'save_every', 'sample_every', 'eval_every'):
    errors.count(f'config.{key}', config[key])
  errors.count('config.steps_per_call', config['steps_per_call'], least=0)
  errors.one_of('config.runs_at_once', config['runs_at_once'],
                ('auto', 'yes', 'no'))
  errors.one_of('config.budget', config['budget'], budget.BUDGETS)
  errors.between('config.audit.max_leaks', config['audit']['max_leaks'], 0, 1)
  errors.once('config.minority', config['minority'])
  if not 0 < config['alpha'] < 1:
    raise errors.InputError(
        f'config.alpha: {config["alpha"]}; expected more than 0, below 1.')
  # Each is a task of its own.
  for where, value in (('config.runs', config['runs']),
                       ('config.data.folds', config['data'].get('folds') or 0)):
    if value > _MOST:
      raise errors.InputError(f'{where}: {value}; expected at most {_MOST}.')
  given = dict(config['data'])
  errors.between('config.data.memory', given.pop('memory'), 0, float('inf'))
  data_arguments(**given)
  for name, block in config['augmentations'].items():
    where = f'config.augmentations.{name}'
    registry.check(standard.make, block, where)
    standard.make(where, **block)
  verdicts.metrics(config['metric'], config['minority'])
  _check_evaluation(config)
  for section in ('selectors', 'generators', 'pools', 'classifiers'):
    for name in config[section]:
      _folder_name(name, f'config.{section}')
  _check_blocks(config)
  _check_arms(config)
  _check_published(config)
