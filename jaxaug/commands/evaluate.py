"""How good are these images? jaxaug evaluate REAL FAKE."""
import argparse
import ast
import os
import pathlib
import re
import statistics
import sys
import time
import typing

import numpy as np

from jaxaug.core import (
  errors,
  exit_status,
  files,
  interrupts,
  memory,
  registry,
  types,
)
from jaxaug.evaluation import features, image_sets, measure, moments
from jaxaug.nn.cpu import convolution
from jaxaug.training import fit, mesh

# What cas trains unless --classifier.KEY=VALUE says otherwise; the keys are
# those of a classifier's block in a config.
CLASSIFIER = {'model': 'cnn', 'steps': 600, 'batch_size': 64,
              'optimizer': 'adam', 'learning_rate': 1e-3,
              'weight_decay': 1e-4}
_EPILOG = (
    'A set is a folder of images (flat, or a folder a class), an .npz of '
    'images, a pool of a study, a data set and its split '
    '(fashion_mnist_small@test, cifar10@train), or an .npz of statistics (mu, '
    'sigma). Arguments of a metric, of the extractor and of the classifier '
    'that cas trains: --kid.subsets=50, --extractor.resize=clean, '
    '--classifier.steps=2000.')


class Asked(typing.NamedTuple):
  """A command line: its flags, and KEY -> VALUE of each section.

  knobs: metric -> its arguments.
  """
  flags: argparse.Namespace
  extractor: dict
  classifier: dict
  knobs: dict


def _parser() -> argparse.ArgumentParser:
  parser = exit_status.parser(
      'jaxaug evaluate', 'Compares sets of generated images with a real one.',
      epilog=_EPILOG)
  add = parser.add_argument
  add('real', metavar='REAL')
  add('fake', metavar='FAKE', nargs='*',
      help='several have a mean and a standard deviation')
  add('--metrics', default='fid,kid,prdc', metavar='NAMES',
      help=f'of {", ".join(registry.names("image_metrics"))}; default: '
      '%(default)s')
  add('--extractor', default='inception', metavar='NAME[:FILE]',
      help=f'of {", ".join(registry.names("extractors"))}; FILE holds its '
      'weights; default: %(default)s')
  add('--batch_size', type=int, default=64, metavar='N')
  add('--num_images', type=int, default=0, metavar='N',
      help='draws so many of each set; default: all')
  add('--resize', metavar='SIDE',
      help='or HEIGHTxWIDTH: of every image, before all else')
  add('--halves', action='store_true',
      help='also compares two halves of REAL, what no generator can beat')
  add('--seed', type=int, default=0, metavar='N',
      help='of --num_images, --halves and the classifiers of cas')
  add('--json', metavar='OUT', help='writes all numbers')
  add('--save_statistics', metavar='OUT.npz',
      help='writes mu and sigma of REAL, which pytorch-fid reads')
  add('--cache', metavar='DIR',
      help="keeps what was extracted of REAL; '' for no cache; default: "
      '~/.cache/jaxaug/features')
  return parser


def parse(argv) -> Asked:
  """Reads a command line; InputError for what no set needs to be wrong."""
  flags, rest = _parser().parse_known_args(argv)
  flags.metrics = [name for name in flags.metrics.split(',') if name]
  metrics = measure.blocks(flags.metrics, '--metrics')
  sections = {name: {} for name in ('extractor', 'classifier', *metrics)}
  for word in rest:
    match = re.fullmatch(r'--(\w+)\.(\w+)=(.*)', word)
    if not match or match[1] not in sections:
      known = [f'--{name}' for name in vars(flags)]
      raise errors.InputError(
          f'{word}: unknown argument; expected a flag, or --SECTION.KEY=VALUE '
          f'of {", ".join(sections)}; see --help.'
          f'{errors.nearest(word.partition("=")[0], known)}')
    sections[match[1]][match[2]] = _value(match[3])
  for key, least in (('batch_size', 1), ('num_images', 0), ('seed', 0)):
    errors.count(f'--{key}', getattr(flags, key), least)
  for name, block in metrics.items():
    given = sections[name] | ({'fit': None} if 'fit' in block.NEEDS else {})
    registry.check(block.compute, given, f'--{name}')
  for out in filter(None, (flags.json, flags.save_statistics)):
    if os.path.exists(out):
      raise errors.InputError(f'{out}: is there already; expected a new file.')
    folder = os.path.dirname(os.path.abspath(out))
    if not os.access(folder, os.W_OK) or not os.path.isdir(folder):
      raise errors.InputError(f'{out}: {folder} is no folder that can be '
                              'written to; expected one.')
  if not (flags.fake or flags.save_statistics or flags.halves):
    raise errors.InputError('FAKE: none; expected one set or more, --halves or '
                            '--save_statistics=OUT.npz.')
  return Asked(flags, sections.pop('extractor'), sections.pop('classifier'),
               sections)


def _value(text: str):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _extractor(asked: Asked) -> types.Extractor:
  name, _, file = asked.flags.extractor.partition(':')
  given = asked.extractor | ({'weights': file} if file else {})
  return registry.build('extractors', name, given, '--extractor', key='name')


def _size(text):
  """Reads --resize: a side, or HEIGHTxWIDTH."""
  if text is None:
    return None
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)?', text):
    raise errors.InputError(
        f'--resize: {text!r}; expected pixels, such as 32 or 48x64.')
  numbers = tuple(map(int, text.split('x')))
  return numbers if len(numbers) == 2 else numbers[0]


def _cache(flags) -> pathlib.Path | None:
  if flags.cache is not None:
    cache = os.path.expanduser(flags.cache)
    if cache.startswith('~'):
      raise errors.InputError(f'--cache: {cache!r}: there is no such user; '
                              'expected a folder.')
    return pathlib.Path(cache) if cache else None
  return features.cache()


def _open(flags) -> list[image_sets.Source]:
  """Opens the real set and the others, which must be alike."""
  real, *fakes = (
      image_sets.open(spec, resize=_size(flags.resize), seed=flags.seed,
                      num_images=flags.num_images, where=where)
      for spec, where in ((flags.real, 'REAL'),
                          *((spec, 'FAKE') for spec in flags.fake)))
  for fake in fakes:
    if real.shape and fake.shape:
      measure.check_alike(real.shape, fake.shape, real.name, fake.name)
  return [real, *fakes]


def _match(labels, real: image_sets.Source, fake: image_sets.Source,
           needed: bool = True):
  """Returns labels of `fake` in the numbers of `real`'s classes.

  `needed`: whether some metric looks at them.
  """
  if labels is None or real.labels is None:
    return labels
  if not real.class_names or not fake.class_names:
    classes = len(real.class_names or ()) or int(real.labels.max()) + 1
    if needed and labels.max() >= classes:
      raise errors.InputError(
          f'FAKE: {fake.name} has the label {labels.max()}, but {real.name} '
          f'has {classes} classes, from 0; expected the same classes.')
    return labels
  for name in fake.class_names:
    if name not in real.class_names:
      raise errors.InputError(
          f'FAKE: {fake.name} has a class {name!r} that {real.name} has not; '
          f'expected some of {", ".join(real.class_names[:20])}.'
          f'{errors.nearest(name, real.class_names)}')
  return np.array([real.class_names.index(name) for name in fake.class_names],
                  np.int32)[labels]


def _fit(asked: Asked, real: image_sets.Source, devices):
  """Returns what trains the classifiers of cas."""
  if real.labels is None:
    return None  # The metric says that it needs them.
  block = CLASSIFIER | asked.classifier
  model, steps, batch_size = (block.pop(key) for key in (
      'model', 'steps', 'batch_size'))
  errors.count('--classifier.steps', steps)
  errors.count('--classifier.batch_size', batch_size)
  spec = types.ImageSpec(*real.shape, int(real.labels.max()) + 1)
  net = fit.network(spec, '--classifier', model, block)
  return fit.fitter(net, steps=steps, batch_size=batch_size,
                    seed=asked.flags.seed, devices=devices)


def _about(source: image_sets.Source) -> dict:
  return {'name': source.name, 'kind': source.kind, 'count': source.count,
          'shape': source.shape, 'digest': source.digest}


def _plain(rows: list[measure.Row]) -> list[dict]:
  return [row._asdict() | {'measured': row.measured._asdict()} for row in rows]


def _over_sets(sets: list[list[measure.Row]]) -> list[dict]:
  """Returns mean and standard deviation of every number over the fake sets."""
  return [{'name': same[0].name, 'label': same[0].label, 'n': len(same),
           'lower_is_better': same[0].lower_is_better,
           'mean': statistics.mean(row.measured.value for row in same),
           'std': statistics.stdev(row.measured.value for row in same)}
          for same in zip(*sets, strict=True)] if len(sets) > 1 else []


def run(asked: Asked) -> dict:
  """Returns all numbers and where they come from, as --json writes them.

  Raises:
    InputError: what the user gave cannot be compared.
  """
  begun, flags = time.monotonic(), asked.flags
  convolution.way()  # A wrong choice is refused before the work.
  compares = flags.fake or flags.halves
  metrics = measure.blocks(flags.metrics if compares else ['fid'])
  needs = measure.needs(metrics)
  real, *fakes = _open(flags)
  network, devices = _extractor(asked), mesh.make()
  extractor = features.extractor(network, devices, flags.batch_size)
  fit = _fit(asked, real, devices) if 'fit' in needs else None
  known = _real(flags, real, extractor, needs)
  sets, notes, halves = [], _notes(real, network), None
  for fake in fakes:
    found = image_sets.extract(fake, extractor, needs, 'FAKE')
    found = found._replace(labels=_match(
        found.labels, real, fake, 'labels' in needs))
    sets.append(measure.rows(metrics, known, found, network, asked.knobs, fit))
    notes += [note for note in measure.notes(known, found) if note not in notes]
  if flags.halves:
    both = (image_sets.extract(half, extractor, needs, 'REAL')
            for half in image_sets.halves(real, flags.seed))
    halves = _plain(measure.rows(metrics, *both, network, asked.knobs, fit))
  return {
      'real': _about(real), 'fake': [
          _about(fake) | {'rows': _plain(rows)}
          for fake, rows in zip(fakes, sets, strict=True)],
      'over_sets': _over_sets(sets), 'halves': halves,
      'extractor': extractor.identity | {'dtype': 'float32'},
      'notes': notes, 'seed': flags.seed, 'resize': flags.resize,
      'num_images': flags.num_images, 'knobs': asked.knobs,
      'classifier': CLASSIFIER | asked.classifier if fit else None,
      'devices': mesh.describe(devices), 'stamp': files.stamp(),
      'seconds': time.monotonic() - begun}


def _real(flags, real: image_sets.Source, extractor: features.FeatureExtractor,
          needs: set) -> types.ImageSet:
  """Returns what metrics need of the real set; writes its statistics."""
  if flags.save_statistics:
    needs = needs | {'moments'}
  found = image_sets.extract(real, extractor, needs, 'REAL', _cache(flags))
  if flags.save_statistics:
    moments.save(flags.save_statistics, found.moments, count=found.count or 0,
                 **extractor.identity)
  return found


def _notes(real: image_sets.Source, extractor: types.Extractor) -> list[str]:
  out = []
  if real.shape and real.shape[2] == 1 and extractor.channels == 3:
    out.append('grey images: repeated as red, green and blue for '
               f'{extractor.name}')
  if extractor.name.startswith('inception') and not extractor.fid:
    out.append('these Inception weights are not the published ones: no number '
               'here is an FID')
  if real.kind == 'statistics' and 'extractor' not in real.about:
    out.append(f'{real.name} does not say which network it is of; taken to be '
               f'{extractor.name}')
  return out


def _number(value) -> str:
  return f'{value:.4g}' if abs(value) < 1e4 else f'{value:,.0f}'


def page(found: dict):
  """Returns every number with its protocol, for a rich console."""
  from rich import console
  about, name = found['extractor'], found['real']['name']
  tables = [_table(f'{entry["name"]} beside {name}', entry['rows'])
            for entry in found['fake']]
  if found['halves']:
    tables.append(_table(f'Two halves of {name}', found['halves']))
  if found['over_sets']:
    tables.append(_table('Mean over the fake sets', [
        {'name': row['name'], 'real': None, 'fake': None,
         'lower_is_better': row['lower_is_better'],
         'measured': {'value': row['mean'], 'std': row['std'], 'n': row['n'],
                      'over': 'sets'}} for row in found['over_sets']]))
  digest = f' {about["weights"][:12]}' if about['weights'] else ''
  return console.Group(
      *tables, f'{about["extractor"]}{digest}: {about["protocol"]}; '
      f'{about["dtype"]}. ↓ lower is better, ↑ higher.',
      *(f'Note: {note}.' for note in found['notes']))


def _table(title: str, rows: list[dict]):
  from rich import box, table, text
  out = table.Table(title=text.Text(title), title_justify='left',
                    box=box.SIMPLE, padding=(0, 1, 0, 0))
  out.add_column('number', no_wrap=True)
  out.add_column('value', justify='right', no_wrap=True)
  out.add_column('± std (over)', justify='right')
  out.add_column('n real × n fake', justify='right', no_wrap=True)
  for row in rows:
    arrow = {True: '↓', False: '↑', None: ''}[row['lower_is_better']]
    value, std, n, over = (row['measured'][key]
                           for key in ('value', 'std', 'n', 'over'))
    counts = [f'{n:,}' for n in (row['real'], row['fake']) if n is not None]
    out.add_row(f'{row["name"]} {arrow}', _number(value),
                '' if std is None else f'± {_number(std)} ({n} {over})',
                ' × '.join(counts))
  return out


def main(argv=None) -> int:
  """Returns the exit status, see core/exit_status.py."""
  memory.keep()
  return exit_status.of('jaxaug evaluate', lambda: _main(
      sys.argv[1:] if argv is None else argv))


def _main(argv):
  asked = parse(argv)
  found = run(asked)
  if asked.flags.json:
    files.write_json(asked.flags.json, found)
  if found['fake'] or found['halves']:
    import rich.console
    rich.console.Console().print(page(found))
  if asked.flags.save_statistics:
    print(f'statistics of {found["real"]["name"]}: '
          f'{asked.flags.save_statistics}')


if __name__ == '__main__':
  interrupts.leave(main())
