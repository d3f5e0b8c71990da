"""Selectors of a study: a name in a config becomes what picks images.

The name is one of config.selectors, or a file of data/selectors/ as it is by
default.
"""
import functools
import typing

import numpy as np

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import features
from jaxaug.study import schema, sections
from jaxaug.study import tasks as study_tasks
from jaxaug.study.stages import judge


class Selector(typing.NamedTuple):
  """What one name means.

  where: its config path. block: its keys. module: the file of data/selectors/.
  """
  where: str
  block: dict
  module: typing.Any

  @property
  def needs(self) -> tuple[str, ...]:
    """What it looks at, see data/selectors."""
    return getattr(self.module, 'NEEDS', ())


def named(config: dict, name: str, where: str) -> Selector:
  """Returns the selector of a name; InputError with `where` if there is none.
  """
  if name in config['selectors']:
    where, block = f'config.selectors.{name}', config['selectors'][name]
    return Selector(where, block, registry.find(
        'selectors', block['selector'], f'{where}.selector'))
  known = [*config['selectors'], *registry.names('selectors')]
  if name not in known:
    raise errors.InputError(
        f'{where}: there is no selector {name!r}; expected a name of '
        'config.selectors or a file of data/selectors/, such as '
        f'{", ".join(known)}.{errors.nearest(name, known)}')
  return Selector(where, {'selector': name} | sections.SELECTOR,
                  registry.find('selectors', name, where))


def extractor(study: study_tasks.Study,
              selector: Selector) -> features.FeatureExtractor:
  """Returns the network that it sees images by."""
  if not selector.block['extractor']:
    return study.extractor
  return study_tasks.extractor(
      selector.block['extractor'], selector.block['weights'],
      study.config['evaluation']['batch_size'], study.machine.devices,
      selector.where)


def reads(study: study_tasks.Study, fold: study_tasks.Fold,
          selector: Selector) -> list:
  """Names in a hash all that it reads but images."""
  out = [getattr(selector.module, 'VERSION', 1), selector.block,
         _seed(study, selector)]
  if 'features' in selector.needs:
    out.append(extractor(study, selector).identity)
  if 'fit' in selector.needs:
    out.append(judge.fitter(study, fold)[1])
  return out


def build(study: study_tasks.Study, fold: study_tasks.Fold, selector: Selector,
          *, score: typing.Callable | None = None):
  """Returns select(images, labels) -> {reason: bool [N] of what is dropped}.

  Args:
    study, fold: whose training split it may look at.
    selector: of `named`.
    score: see types.Known.

  Raises:
    InputError: an argument that cannot be.
  """
  block, train = selector.block, fold.splits.train
  if 'pixels' in selector.needs:  # Here, where too many are one line.
    train = train._replace(images=np.asarray(train.images))
  names, classes = fold.splits.class_names, numbers(
      block['classes'], fold.splits.class_names, f'{selector.where}.classes')

  def look(images):
    # Those of the training images are asked for again and again.
    kept = {'cache': features.cache(), 'digest': fold.digests('train')[0]} if (
        images is train.images) else {}
    return features.of_array(extractor(study, selector), images, {'features'},
                             **kept).features

  def fit(*given):
    return judge.fitter(study, fold)[0](*given)
  known = types.Known(train, names, look, fit, score, _seed(study, selector))
  select = registry.build(
      'selectors', block['selector'], schema.arguments(block, schema.SELECTOR),
      selector.where, known, key='selector')

  def some(images, labels):
    rows = (np.flatnonzero(np.isin(labels, classes)) if classes else
            np.arange(len(labels)))
    with registry.within(selector.where):
      dropped = select(images[rows], labels[rows])
    out = {}
    for reason, gone in dropped.items():
      out[reason] = np.zeros(len(labels), bool)
      out[reason][rows] = gone
    return out
  return some


def numbers(classes, class_names, where: str) -> tuple[int, ...]:
  """Returns classes given by name or number as numbers; () for all."""
  out = []
  for each in classes or ():
    if type(each) is int and 0 <= each < len(class_names):
      out.append(each)
    elif isinstance(each, str) and each in class_names:
      out.append(class_names.index(each))
    else:
      raise errors.InputError(
          f'{where}: {each!r} is no class; expected some of '
          f'{", ".join(class_names[:20])}.'
          f'{errors.nearest(str(each), class_names)}')
  errors.once(where, classes or (), out)
  return tuple(out)


def _seed(study, selector: Selector) -> int:
  return study.seed('selector', selector.block['selector'])


class Screened(typing.NamedTuple):
  """What selectors, one after the other, left of some images.

  keep: bool [N]. steps: for each selector 'selector', 'seen' and 'kept', counts
  of images, and 'reasons', reason -> how many were dropped for it.
  """
  keep: np.ndarray
  steps: list[dict]


def screen(selects: dict[str, typing.Callable], images, labels) -> Screened:
  """Passes images [N, H, W, C] through selectors in their order."""
  rows, steps = np.arange(len(labels)), []
  for name, select in selects.items():
    dropped = select(images[rows], labels[rows]) if len(rows) else {}
    gone = functools.reduce(np.logical_or, dropped.values(),
                            np.zeros(len(rows), bool))
    steps.append({'selector': name, 'seen': len(rows),
                  'kept': int((~gone).sum()), 'reasons': {
                      reason: int(x.sum()) for reason, x in dropped.items()}})
    rows = rows[~gone]
  return Screened(np.isin(np.arange(len(labels)), rows), steps)


# ------------------------------------------------------------ representatives
def of_representatives(config: dict, name: str) -> Selector:
  """Returns the selector that a generator has its images from."""
  return named(config, name, next(
      f'config.generators.{generator}.representatives'
      for generator, block in config['generators'].items()
      if block['representatives'] == name))


def labels(study: study_tasks.Study, fold: study_tasks.Fold,
           name: str) -> np.ndarray:
  """Returns the classes of the representatives that a selector will pick.

  Raises:
    InputError: it picks no fixed count of every class, or a class has fewer.
  """
  selector = of_representatives(study.config, name)
  count = selector.block.get('count', registry.arguments(
      selector.module.build).get('count'))
  if count is None or selector.block.get('share'):
    raise errors.InputError(
        f'{selector.where}: {selector.block["selector"]!r} picks no fixed '
        'count of each class; expected a selector with a count and no share, '
        "such as 'kmeans'.")
  errors.count(f'{selector.where}.count', count)
  names = fold.splits.class_names
  classes = numbers(selector.block['classes'], names,
                    f'{selector.where}.classes') or range(len(names))
  have = np.bincount(fold.labels, minlength=len(names))
  for k in classes:
    if have[k] < count:
      raise errors.InputError(
          f'{selector.where}.count: {count} representatives of each class, and '
          f'{names[k]!r} has {have[k]} training images; expected '
          f'{have[list(classes)].min()} at most.')
  return np.repeat(np.sort(np.array(classes, np.int32)), count)
