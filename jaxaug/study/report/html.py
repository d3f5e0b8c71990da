"""Turns a study's results into one self-contained page and a terminal table.

The page needs no network and no scripts: style and figures are inside it.
"""
import collections
import math
import pathlib

import numpy as np

from jaxaug.core import files
from jaxaug.evaluation import collapse, stats
from jaxaug.study.report import figures

VERDICT_COLORS = {'helps': figures.BLUE, 'hurts': figures.ORANGE}
MATRIX_CLASSES = 20   # Above, a confusion matrix is a picture.
CLASS_CELLS = 2000    # Above, precision, recall and F1 by class are left out.
# What a config's `budget` means.
BUDGETS = {
    'steps': 'Every arm takes the same number of optimizer steps, however many '
             'images it trains on.',
    'epochs': 'Every arm passes over its own training images equally often: '
              'one with more of them takes more optimizer steps.',
    'compute': 'Every arm may compute equally much: what training the '
               'generator took is given to the arms without generated images '
               'as more optimizer steps.'}


# ---------------------------------------------------------------- the stage
def write(results: dict, grids: dict, path, pairs: dict | None = None,
          interpolations: dict | None = None):
  """Writes the report page.

  Args:
    results: what the evaluate stage wrote to results.json.
    grids: pool -> (real, generated), uint8 [K, M, H, W, C] each, class
      by row, C is 1 or 3; unselected, as the page says so.
    path: where the page goes; replaced only once it is whole.
    pairs: pool -> its images that are nearest to real ones, nearest first, as
      figures.closest takes them.
    interpolations: generator -> uint8 [H, W, C], a grid with a class to a row.
  """
  text = page(results, grids, pairs, interpolations).encode()
  with files.replacing(path) as f:
    f.write(text)


def page(results: dict, grids: dict, pairs: dict | None = None,
         interpolations: dict | None = None) -> str:
  """Returns the report as HTML; arguments as in `write`."""
  import jinja2

  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  environment.filters |= {
      'percent': percent, 'number': number, 'change': change, 'p': p_value,
      'time': duration, 'flat': flat, 'tint': tint, 'distance': distance,
      'first_upper': first_upper, 'short': short}
  alpha, classifiers = results['alpha'], results['classifiers']
  def each(function, *args):
    return {name: function(c, *args) for name, c in classifiers.items()}
  with figures.style():
    return environment.get_template('report.html.jinja').render(
        r=results, c0=next(iter(classifiers.values())),
        c0_name=next(iter(classifiers)), rival=rival, by_class=by_class,
        compared=any(len(c['arms']) > 1 for c in classifiers.values()),
        level=f'{100 * (1 - alpha):g} %', answers=each(answer, alpha),
        stronger=each(stronger_plain), measures=each(measures),
        figures=each(classifier_figures, alpha), best=each(best),
        budget=BUDGETS.get(results['config'].get('budget')), images=images,
        uneven=any(len(steps(c)) > 1 for c in classifiers.values()),
        ratios=ratio_figures(results),
        published=published(results.get('published', ())),
        steps=steps, cautions=cautions(results), strips=figures.strips(grids),
        interpolations={
            name: figures.first_rows(grid, len(results['data']['class_names']))
            for name, grid in (interpolations or {}).items()},
        collapse=collapse.words,
        closest=figures.closest(pairs or {}), class_cells=CLASS_CELLS,
        generator_figures={
            name: figures.generator_figures(
                g['curves'], g.get('choice', ()), g.get('curve') or '',
                g.get('chosen_step'), g.get('watched', {}))
            for name, g in results.get('generators', {}).items()},
        qualities={name: pool['quality']
                   for name, pool in results.get('pools', {}).items()
                   if pool.get('quality')},
        matrix_classes=MATRIX_CLASSES, min_runs=stats.MIN_RUNS,
        heatmap=figures.heatmap)


def verdict_table(results: dict):
  """Returns the verdicts as a rich.table.Table for the terminal."""
  from rich import box, table, text

  first = next(iter(results['classifiers'].values()))
  words = first['label'].replace(' ', '\n') + ' %' * first['percent']
  unit = ', in points,' if first['percent'] else ''
  out = table.Table(
      title=f'Verdicts of {results["study"]}', title_justify='left',
      box=box.SIMPLE, padding=(0, 1, 0, 0), caption_justify='left',
      caption=f'Difference of the test {first["label"]} to the baseline, or '
              f'the arm named{unit} with its {100 * (1 - results["alpha"]):g} '
              f'% interval; {better(first)} is better; p after Holm.')
  out.add_column('arm', overflow='fold')
  for column in ('real +\nsynthetic', words, 'difference', 'p'):
    out.add_column(column, justify='right', no_wrap=True)
  out.add_column('verdict', no_wrap=True)
  styles = {'helps': 'bold blue', 'hurts': 'bold red', 'baseline': 'dim'}
  for name, classifier in results['classifiers'].items():
    out.add_row(text.Text(name, 'bold'))
    for arm, row in classifier['arms'].items():
      compared = row['difference'] is not None
      spread = '' if row['std'] is None else (
          f'\n± {number(row["std"], classifier)}')
      interval = '' if row['low'] is None else (
          f'\n[{change(row["low"], classifier)}, '
          f'{change(row["high"], classifier)}]')
      other = rival(row, classifier)
      out.add_row(
          text.Text(f' {arm}' + f'\n  against {other}' * bool(other)),
          f'{row["real"]:,}\n+ {row["synthetic"]:,}',
          f'{number(row["mean"], classifier)}{spread} ({row["n"]})',
          text.Text(change(row['difference'], classifier) + interval
                    if compared else ''),
          p_value(row['p_corrected']) if compared else '',
          text.Text(row['verdict'], styles.get(row['verdict'], '')))
    out.add_section()
  return out


# ---------------------------------------------------------- words and numbers
def percent(fraction, digits: int = 2) -> str:
  """Returns a fraction as a number of percent, or a dash for None."""
  return '–' if fraction is None else f'{100 * fraction:.{digits}f}'


def number(value, of: dict) -> str:
  """Returns a measure's value; `of` says whether that is in percent."""
  if value is None or of['percent']:
    return percent(value)
  return f'{value:.4f}'


def change(value, of: dict) -> str:
  """Returns a signed difference, in percentage points for shares."""
  if value is None:
    return '–'
  text = f'{100 * value:+.2f}' if of['percent'] else f'{value:+.4f}'
  return (text.replace('-', '−') if float(text) else text[1:])


def distance(value) -> str:
  """Returns a distance between images, or a dash for None."""
  return '–' if value is None else f'{value:.2f}'


def short(value) -> str:
  """Returns a number of any size in four digits."""
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'.replace(
      '-', '−')


def better(of: dict) -> str:
  """Returns which direction of a measure is the good one."""
  return 'lower' if of['lower_is_better'] else 'higher'


def first_upper(text: str) -> str:
  """Returns the text with a large first letter; the others stay."""
  return text[:1].upper() + text[1:]


def p_value(p) -> str:
  """Returns a p-value with as many digits as mean something."""
  if p is None:
    return '–'
  return '<0.0001' if p < 1e-4 else f'{p:.4f}' if p < .1 else f'{p:.3f}'


def duration(seconds) -> str:
  """Returns seconds in the units that a person would use."""
  if seconds is None:
    return '–'
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes = round(seconds / 60)
  if minutes < 60:
    return f'{int(seconds // 60)} min {int(seconds % 60):02d} s'
  return f'{minutes // 60} h {minutes % 60:02d} min'


def tint(value: float, strongest: float) -> int:
  """Returns the tint of a table cell, 0 to 60 percent of full colour."""
  return round(60 * min(1., abs(value) / strongest)) if strongest else 0


def flat(nested: dict, prefix: str = '') -> list:
  """Returns (dotted key, text) for every leaf of a nested dict."""
  rows = []
  for key, value in nested.items():
    if isinstance(value, dict) and value:
      rows += flat(value, f'{prefix}{key}.')
    else:
      rows.append((f'{prefix}{key}', str(value)))
  return rows


def images(count: int, kind: str = '') -> str:
  """Returns a count of images in words."""
  return f'{count:,} {kind}image{"s" if count != 1 else ""}'


def runs(count: int, classifier: dict) -> str:
  """Returns a count of what is compared in pairs, in words."""
  word = 'fold' if classifier['folds'] > 1 else 'run'
  return f'{count} paired {word}{"s" if count != 1 else ""}'


def rival(row: dict, classifier: dict) -> str | None:
  """Names what an arm is compared with where that is not the baseline."""
  other = row.get('baseline')
  return None if other == classifier['baseline'] else other


def steps(classifier: dict) -> list:
  """Returns the numbers of steps that arms take, sorted, each once."""
  return sorted({row['steps'] for row in classifier['arms'].values()})


def _clause(row: dict, alpha: float, classifier: dict) -> str:
  """Returns an arm's difference, interval and runs in words."""
  interval = '' if row['low'] is None else (
      f'{100 * (1 - alpha):g} % interval {change(row["low"], classifier)} to '
      f'{change(row["high"], classifier)}, ')
  other = rival(row, classifier)
  other = f' to {other}' if other else ''
  unit = ' points' * classifier['percent']
  return (f'difference{other} {change(row["difference"], classifier)}{unit}, '
          f'{interval}{runs(row["n"], classifier)}')


def answer(classifier: dict, alpha: float) -> dict:
  """Answers the study's question for one classifier in plain words.

  Returns:
    'verdict', one word or two for all arms with generated images together;
    'sentence'; 'lines', (verdict, arm, numbers) for each arm that the
    sentence only counts; 'plain', those of arms without generated images.
  """
  lines, plain = [], []
  for arm, row in classifier['arms'].items():
    if arm != classifier['baseline']:
      (lines if row['generated'] else plain).append(
          (row['verdict'], first_upper(row['description'] or arm),
           _clause(row, alpha, classifier)))
  counts = collections.Counter(verdict for verdict, *_ in lines)
  said = [f'{words} {counts[verdict]}' for verdict, words in (
      ('helps', 'help in'), ('hurts', 'hurt in'),
      ('no evidence', 'show no evidence either way in'),
      ('too few runs', 'have too few runs for a verdict in'))
      if counts[verdict]]
  if not lines:
    return {'verdict': 'nothing to compare', 'lines': [], 'plain': plain,
            'sentence': 'No arm with generated images was compared'}
  said = ' and '.join([', '.join(said[:-1])] * (len(said) > 1) + said[-1:])
  sentence = (f'Generated images {said} of the {len(lines)} arms that have '
              'them')
  if len(lines) == 1:
    verdict, name, numbers = lines.pop()
    words = {'no evidence': 'no evidence that it helps or hurts',
             'too few runs': 'too few runs for a verdict'}
    sentence = f'{name}: {words.get(verdict, verdict)} ({numbers})'
  return {'verdict': next(iter(counts)) if len(counts) == 1 else
                     'depends on the arm',
          'sentence': sentence, 'lines': lines, 'plain': plain}


def by_class(arm: dict, what: str) -> list:
  """Returns an arm's 'error', 'precision', 'recall' or 'f1' by class."""
  return arm['per_class_error'] if what == 'error' else arm['per_class'][what]


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


def measures(classifier: dict) -> list:
  """Returns [(metric, {arm: its entry})], the one of the verdict first.

  Then shares before other numbers, and what should be low before the rest.
  """
  names = dict.fromkeys([classifier['metric'], *(
      name for row in classifier['arms'].values()
      for name in row.get('metrics', {}))])
  rows = [(name, {arm: row.get('metrics', {}).get(name)
                  for arm, row in classifier['arms'].items()})
          for name in names]
  return sorted([(name, row) for name, row in rows if all(row.values())],
                key=lambda x: (x[0] != classifier['metric'], *(
                    not next(iter(x[1].values()))[k]
                    for k in ('percent', 'lower_is_better'))))


def published(figures: list) -> dict:
  """Orders published figures for the page.

  Returns:
    'rows', classifier -> its figures, each with 'note', the number of what
    must be said of it; 'notes', [(source, difference)], each once.
  """
  notes = list(dict.fromkeys((f['source'], f['difference']) for f in figures))
  rows = {}
  for figure in figures:
    note = 1 + notes.index((figure['source'], figure['difference']))
    rows.setdefault(figure['classifier'], []).append(figure | {'note': note})
  return {'rows': rows, 'notes': notes}


def cautions(results: dict) -> list:
  """Returns what a reader must know before trusting the verdicts."""
  out = []
  fewest, c = min(((row['n'], c) for c in results['classifiers'].values()
                   for row in c['arms'].values()), key=lambda x: x[0])
  if fewest < stats.MIN_RUNS:
    out.append(f'Some arm has {runs(fewest, c)}: no verdict is given under '
               f'{stats.MIN_RUNS}.')
  for key, count in flat(results['data'].get('overlaps', {})):
    if count not in ('0', 'None', '[]', '{}'):
      out.append(f'Identical images, {key}: {count}.')
  for name, entry in results.get('generators', {}).items():
    if words := collapse.words(entry):
      out.append(f'Generator {name} {words}.')
  for name, pool in results.get('pools', {}).items():
    audit = pool.get('audit') or {}
    for split in ('test', 'train'):
      if side := audit.get(split):
        out += _copies(name, split, side, audit['n'])
  return out


def _copies(pool: str, split: str, side: dict, n: int) -> list:
  """Returns what to say of a pool's copies of one split, if anything."""
  out = []
  if side['exact']:
    out.append(f'Pool {pool} holds {side["exact"]} exact '
               f'cop{"ies" if side["exact"] > 1 else "y"} of {split} images.')
  # By chance as many as of clean real images, and two standard errors more.
  clean = side['yardstick_share'] or 0.
  if side['near'] > n * clean + 2 * math.sqrt(n * clean + 1):
    out.append(f'{percent(side["share"])} % of pool {pool} are near copies of '
               f'{split} images; of clean real images, {percent(clean)} % '
               'are as near.')
  return out


def best(classifier: dict):
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
  return min(arms, key=_cost(classifier)), (
      f'{better(classifier)[:-2]}est mean test {classifier["label"]}')


# -------------------------------------------------------------------- figures
def classifier_figures(classifier: dict, alpha: float) -> dict:
  """Returns 'own', 'differences' (or None) and 'curves' by arm."""
  arms, base = classifier['arms'], classifier['baseline']
  folds, scale = classifier['folds'], 100 if classifier['percent'] else 1
  ratio = stats.test_share(folds)
  values = {arm: scale * np.asarray(row['values'], float)
            for arm, row in arms.items()}
  if folds > 1:  # A dot a fold: its runs share their test images.
    values = {arm: v.reshape(folds, -1).mean(1) for arm, v in values.items()}
  colors = {arm: VERDICT_COLORS.get(row['verdict'], figures.INK)
            for arm, row in arms.items()}
  rivals = {arm: rival(row, classifier) or base for arm, row in arms.items()}
  def row(arm, name, others):
    test = stats.paired(values[arm], others, alpha, ratio)
    return (name, values[arm] - others,
            [test[k] for k in ('difference', 'low', 'high')], colors[arm])
  own = [row(arm, arm + ' (baseline)' * (arm == base), np.zeros_like(v))
         for arm, v in values.items()]
  apart = [row(arm, arm + f' against {rivals[arm]}' * (rivals[arm] != base),
               values[rivals[arm]]) for arm in arms]
  ends = ('better', 'worse')[::1 if classifier['lower_is_better'] else -1]
  unit = 'points' if classifier['percent'] else 'difference'
  limits = figures.curve_limits(arms)
  return {
      'own': figures.interval_figure(
          own, f'test {classifier["label"]}' + ', %' * classifier['percent'],
          scale * arms[base]['mean']),
      'differences': figures.interval_figure(
          apart, f'← {ends[0]} · {unit} · {ends[1]} →',
          0.) if len(arms) > 1 else None,
      'curves': {
          arm: figures.curve_figure(entry['curves'], None if arm == base
                                    else arms[base]['curves'], limits)
          for arm, entry in arms.items() if any(entry['curves'])}}


def ratio_figures(results: dict) -> dict:
  """Returns classifier -> [(caption, figure)] of its measure by ratio.

  Published figures stand in it where they are of that measure.
  """
  out = {}
  for name, classifier in results['classifiers'].items():
    published = collections.defaultdict(list)
    for figure in results.get('published', ()):
      if (figure['classifier'], figure['metric']) == (
          name, classifier['metric']):
        published[figure['arm']].append(figure['value'])
    out[name] = [_ratio_figure(classifier, group, published)
                 for group in classifier.get('ratios', ())]
  return {name: drawn for name, drawn in out.items() if drawn}


def _ratio_figure(classifier: dict, group: dict, published: dict) -> tuple:
  scale = 100 if classifier['percent'] else 1
  lines = {kind: [
      (100 * point['ratio'], *(None if point[k] is None else scale * point[k]
                               for k in ('mean', 'low', 'high')))
      for point in points] for kind, points in group['lines'].items()}
  marks = {kind: [(100 * point['ratio'], scale * value) for point in points
                  for value in published.get(point['arm'], ())]
           for kind, points in group['lines'].items()}
  beside = f' beside {group["plain"]}' if group['plain'] else ''
  caption = (f'test {classifier["label"]}' + ', %' * classifier['percent'] +
             f', images of {group["pool"]}{beside}')
  return caption, figures.ratio_figure(lines, marks, caption)
