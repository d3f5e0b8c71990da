"""Says a study's results in numbers and sentences."""
import collections
import math

import numpy as np

from jaxaug.evaluation import collapse, stats

# What a config's `budget` means.
BUDGETS = {
    'steps': 'Every arm takes the same number of optimizer steps, however many '
             'images it trains on.',
    'epochs': 'Every arm passes over its own training images equally often: '
              'one with more of them takes more optimizer steps.',
    'compute': 'Every arm may compute equally much: what training the '
               'generator took is given to the arms without generated images '
               'as more optimizer steps.'}


# -------------------------------------------------------------------- numbers
def percent(fraction, digits: int = 2) -> str:
  """Returns a fraction as a number of percent, or a dash for None."""
  return '–' if fraction is None else f'{100 * fraction:.{digits}f}'


def number(value, of: dict) -> str:
  """Returns a measure's value; `of` says whether that is in percent."""
  if value is None or of['percent']:
    return percent(value)
  return f'{value:.4f}'


def minority(results: dict) -> tuple[str, ...]:
  """Returns the classes whose own accuracy stands beside the study's metric."""
  config = results['config']
  if config.get('metric') == 'minority_accuracy':
    return ()
  return tuple(map(str, config.get('minority') or ()))


def selected(results: dict, name: str) -> list[str]:
  """Returns the classes that a selector of a config looks at."""
  block = results['config'].get('selectors', {}).get(name, {})
  given = block.get('classes') or ()
  return [each for k, each in enumerate(results['data']['class_names'])
          if not given or each in given or k in given]


def change(value, of: dict) -> str:
  """Returns a signed difference, in percentage points for shares."""
  if value is None:
    return '–'
  text = f'{100 * value:+.2f}' if of['percent'] else f'{value:+.4f}'
  if not float(text):
    return text[1:]
  return text.replace('-', '−')


def distance(value) -> str:
  """Returns a distance between images, or a dash for None."""
  return '–' if value is None else f'{value:.2f}'


def short(value) -> str:
  """Returns a number of any size in four digits."""
  text = f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'
  return text.replace('-', '−')


def p_value(p) -> str:
  """Returns a p-value with as many digits as mean something."""
  if p is None:
    return '–'
  if p < 1e-4:
    return '<0.0001'
  return f'{p:.4f}' if p < .1 else f'{p:.3f}'


def level(alpha: float) -> str:
  """Returns what intervals cover where tests are of the level `alpha`."""
  return f'{100 * (1 - alpha):g} %'


# ---------------------------------------------------------------------- words
def first_upper(text: str) -> str:
  """Returns the text with a large first letter; the others stay."""
  return text[:1].upper() + text[1:]


def listed(parts: list[str]) -> str:
  """Returns the parts as a sentence lists them: 'a, b and c'."""
  *first, last = parts
  return f'{", ".join(first)} and {last}' if first else last


def flat(nested: dict, prefix: str = '') -> list:
  """Returns (dotted key, text) for every leaf of a nested dict."""
  rows = []
  for key, value in nested.items():
    if isinstance(value, dict) and value:
      rows += flat(value, f'{prefix}{key}.')
    else:
      rows.append((f'{prefix}{key}', str(value)))
  return rows


def images(count: int) -> str:
  """Returns a count of images in words."""
  return '1 image' if count == 1 else f'{count:,} images'


def runs(count: int, classifier: dict) -> str:
  """Returns a count of what is compared in pairs, in words."""
  word = 'fold' if classifier['folds'] > 1 else 'run'
  return f'1 paired {word}' if count == 1 else f'{count} paired {word}s'


def better(of: dict) -> str:
  """Returns which direction of a measure is the good one."""
  return 'lower' if of['lower_is_better'] else 'higher'


def label(of: dict) -> str:
  """Returns a measure's name with its unit."""
  return f'{of["label"]}, %' if of['percent'] else of['label']


def rival(row: dict, classifier: dict) -> str | None:
  """Names what an arm is compared with where that is not the baseline."""
  other = row.get('baseline')
  return None if other == classifier['baseline'] else other


# --------------------------------------------------------------------- answer
def answer(classifier: dict, alpha: float) -> dict:
  """Answers the study's question for one classifier in plain words.

  Returns:
    'verdict', one word or two for all arms with generated images together;
    'sentence'; 'lines', (verdict, arm, numbers) for each arm that the
    sentence only counts; 'plain', those of arms without generated images;
    'missing', see `without_verdict`.
  """
  lines, plain = [], []
  for arm, row in classifier['arms'].items():
    if row['difference'] is not None:
      (lines if row['generated'] else plain).append(
          (row['verdict'], first_upper(row['description'] or arm),
           _clause(row, alpha, classifier)))
  left_out = without_verdict(classifier)
  if not lines:
    lost = [arm for arm, generated, _ in left_out if generated]
    return {'verdict': 'missing' if lost else 'nothing to compare',
            'lines': [], 'plain': plain, 'missing': left_out,
            'sentence': 'No arm with generated images has a verdict' if lost
                        else 'No arm with generated images was compared'}
  counts = collections.Counter(verdict for verdict, *_ in lines)
  one = next(iter(counts)) if len(counts) == 1 else 'depends on the arm'
  if len(lines) == 1:
    (_, arm, numbers), = lines
    words = {'no evidence': 'no evidence that it helps or hurts',
             'too few runs': 'too few runs for a verdict'}.get(one, one)
    return {'verdict': one, 'lines': [], 'plain': plain, 'missing': left_out,
            'sentence': f'{arm}: {words} ({numbers})'}
  said = listed([f'{words} {counts[verdict]}' for verdict, words in (
      ('helps', 'help in'), ('hurts', 'hurt in'),
      ('no evidence', 'show no evidence either way in'),
      ('too few runs', 'have too few runs for a verdict in'))
      if counts[verdict]])
  lost = sum(generated for _, generated, _ in left_out)
  return {'verdict': one, 'lines': lines, 'plain': plain, 'missing': left_out,
          'sentence': f'Generated images {said} of the {len(lines)} arms that '
                      f'have them{" and a verdict" if lost else ""}'}


def without_verdict(classifier: dict) -> list[tuple[str, bool, str]]:
  """Returns (arm, whether it has generated images, why) of arms that lack one.

  Those that lack runs, and those that are compared with one of these.
  """
  out = [(arm, entry['generated'], entry['why'])
         for arm, entry in classifier['missing'].items()]
  return out + [
      (arm, row['generated'], f'is compared with {row["baseline"]}, which is '
                              'missing')
      for arm, row in classifier['arms'].items()
      if row['verdict'] == 'not compared']


def _clause(row: dict, alpha: float, classifier: dict) -> str:
  """Returns an arm's difference, interval and runs in words."""
  parts = ['difference']
  if other := rival(row, classifier):
    parts.append(f'to {other}')
  parts.append(change(row['difference'], classifier))
  if classifier['percent']:
    parts.append('points')
  parts = [' '.join(parts)]
  if row['low'] is not None:
    parts.append(f'{level(alpha)} interval {change(row["low"], classifier)} to '
                 f'{change(row["high"], classifier)}')
  return ', '.join([*parts, runs(row['n'], classifier)])


# ------------------------------------------------------------- arms that lead
def _cost(classifier: dict):
  """Returns a function of an arm: its mean, turned so that less is better."""
  sign = 1 if classifier['lower_is_better'] else -1
  return lambda arm: sign * classifier['arms'][arm]['mean']


def stronger_plain(classifier: dict) -> dict | None:
  """Names an arm without generated images that beats all arms with them.

  Returns:
    'arm' and 'words', such as 'a lower mean top-1 error'; None if none does.
  """
  arms, cost = classifier['arms'], _cost(classifier)
  generated = [cost(arm) for arm in arms if arms[arm]['generated']]
  plain = [arm for arm in arms if not arms[arm]['generated']]
  first = min(plain, key=cost, default=None)
  if not generated or not plain or cost(first) >= min(generated):
    return None
  return {'arm': first,
          'words': f'a {better(classifier)} mean {classifier["label"]}'}


def best(classifier: dict) -> tuple[str, str] | None:
  """Picks the arm beside the baseline that is worth looking at.

  Returns:
    (arm, how it was picked), or None where only the baseline exists.
  """
  arms = {arm: row for arm, row in classifier['arms'].items()
          if arm != classifier['baseline']}
  if not arms:
    return None
  if all(row['curves'] and all(row['curves']) for row in arms.values()):
    return min(arms, key=lambda arm: np.mean([
        min(point['validation_error'] for point in run)
        for run in arms[arm]['curves']])), 'lowest mean validation error'
  most = 'lowest' if classifier['lower_is_better'] else 'highest'
  return (min(arms, key=_cost(classifier)),
          f'{most} mean test {classifier["label"]}')


# ------------------------------------------------------------------- cautions
def cautions(results: dict) -> list[str]:
  """Returns what a reader must know before trusting the verdicts."""
  kinds = {}
  for failure in results['failures']:
    kinds.setdefault((failure['phase'], failure['why']), []).append(failure)
  out = [_failure(*alike) for alike in kinds.values()]
  fewest, c = min(((row['n'], c) for c in results['classifiers'].values()
                   for row in c['arms'].values()), key=lambda x: x[0],
                  default=(stats.MIN_RUNS, None))
  if fewest < stats.MIN_RUNS:
    out.append(f'Some arm has {runs(fewest, c)}: no verdict is given under '
               f'{stats.MIN_RUNS}.')
  for where, count in results['data'].get('overlaps', {}).items():
    if count:
      out.append(f'Identical images, {where}: {count}.')
  for name, entry in results.get('generators', {}).items():
    if words := collapse.words(entry):
      out.append(f'Generator {name} {words}.')
  for name, pool in results.get('pools', {}).items():
    audit = pool.get('audit') or {}
    if warning := (pool.get('imported') or {}).get('warning'):
      out.append(f'Pool {name} is {warning}. Copies are looked for; that none '
                 'is found does not say that it has seen no test image.')
    for split in ('test', 'validation', 'train'):
      if side := audit.get(split):
        out += _copies(name, split, side, audit['n'])
  return out


def data_checks(data: dict) -> list[tuple[str, str]]:
  """Returns what was found in the data: (what, in words), the usual first."""
  checks, out = data.get('checks') or {}, []
  def counted(counts):
    return ', '.join(f'{count:,} {name}' for name, count in counts.items())
  for split, counts in data['counts'].items():
    if sum(counts):
      out.append((f'images a class, {split}', f'{min(counts):,}' if len(
          set(counts)) == 1 else f'{min(counts):,} to {max(counts):,}'))
  for key, what in (('sizes', 'sizes, height x width'), ('modes', 'kinds'),
                    ('ignored', 'files that were not read')):
    if checks.get(key):
      out.append((what, counted(checks[key])))
  if checks.get('licence'):
    out.append(('licence', checks['licence']))
  out += [('note', note) for note in checks.get('notes', ())]
  for key, what in (('contradictions', 'equal images of two classes'),
                    ('overlap', 'test images in train or validation')):
    if found := data.get(key):
      pairs = [' and '.join(pair) for pair in found['pairs'][:5]]
      out.append((what, f'{found["count"]:,}: {"; ".join(pairs)}' if pairs else
                  'none'))
  for split, found in (data.get('near') or {}).items():
    out.append((f'near duplicates of training images, {split}',
                _near(found, sum(data['counts'][split]))))
  out += [(f'identical images, {where}', f'{count:,}')
          for where, count in data.get('overlaps', {}).items() if count]
  return out


def _near(found: dict, total: int) -> str:
  """Returns how many images of a split nearly are training images."""
  looked = (f'all {total:,}' if found['looked'] == total else
            f'{found["looked"]:,} of {total:,}, drawn alike')
  pairs = '; '.join(' and '.join(pair) for pair in found['pairs'][:5])
  return (f'{found["count"]:,} of {looked} (of training images, '
          f'{percent(found["usual"])} % are so near to each other'
          + (', so that this tells nothing here)' if found['usual'] > .2 else
             ')') + (f': {pairs}' if pairs else ''))


def _failure(failure: dict, *more: dict) -> str:
  """Returns what to say of tasks that failed alike, see study/failures.py."""
  at = f' in step {failure["step"]:,}' if failure['step'] else ''
  when = failure['time'].replace('T', ' ')
  also = listed([other['unit'] for other in more[:5]] + (
      [f'{len(more) - 5} more'] if len(more) > 5 else [])) if more else ''
  return (f'{first_upper(failure["phase"])} {failure["unit"]} failed{at} '
          f'({when}): {failure["why"]}. {f"So did {also}. " if also else ""}'
          'What needs it is missing here: pools, their pictures and arms.')


def _copies(pool: str, split: str, side: dict, n: int) -> list[str]:
  """Returns what to say of a pool's copies of one split, if anything."""
  out = []
  if side['exact']:
    copies = ('1 exact copy' if side['exact'] == 1 else
              f'{side["exact"]} exact copies')
    out.append(f'Pool {pool} holds {copies} of {split} images.')
  # By chance as many as of clean real images, and two standard errors more.
  clean = side['yardstick_share'] or 0.
  if side['near'] > n * clean + 2 * math.sqrt(n * clean + 1):
    out.append(f'{percent(side["share"])} % of pool {pool} are near copies of '
               f'{split} images; of clean real images, {percent(clean)} % '
               'are as near.')
  return out
