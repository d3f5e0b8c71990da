"""Makes a study's report: one page that needs no network and no scripts.

Style and figures are inside it.
"""
import functools
import pathlib
import typing

from jaxaug.core import console, files
from jaxaug.evaluation import collapse, stats
from jaxaug.study.report import figures, pictures, words

MATRIX_CLASSES = 20   # Above, a confusion matrix is a picture.
CLASS_CELLS = 2000    # Above, precision, recall and F1 by class are left out.


class Pictures(typing.NamedTuple):
  """What the page shows beside figures.

  grids: pool -> (real, generated, classes): uint8 [K, M, H, W, C] each, a class
    to a row, C is 1 or 3; unselected, as the page says so; and their numbers.
  pairs: pool -> its images that are nearest to real ones, nearest first, as
    pictures.closest takes them.
  interpolations: generator -> uint8 [H, W, C], a grid with a class to a row.
  representatives: selector -> the same.
  """
  grids: dict = {}
  pairs: dict = {}
  interpolations: dict = {}
  representatives: dict = {}


def write(results: dict, shown: Pictures, path):
  """Writes the report page.

  Args:
    results: what the evaluate stage wrote to results.json.
    shown: pictures.
    path: where the page goes; replaced only once it is whole.
  """
  text = render(results, shown).encode(
      errors='backslashreplace')  # Of paths that are no text.
  with files.replacing(path) as f:
    f.write(text)


def render(results: dict, shown: Pictures) -> str:
  """Returns the report as HTML; arguments as in `write`."""
  alpha, classes = results['alpha'], len(results['data']['class_names'])
  template = _environment().get_template('report.html.jinja')
  with figures.style():
    return template.render(
        r=results, level=words.level(alpha), cautions=words.cautions(results),
        minority=words.minority(results),
        checks=words.data_checks(results['data']),
        budget=words.BUDGETS.get(results['config'].get('budget')),
        published=published(results.get('published', ())),
        qualities={name: pool['quality']
                   for name, pool in results.get('pools', {}).items()
                   if pool.get('quality')},
        shown={name: _shown(c, alpha)
               for name, c in results['classifiers'].items()},
        ratios=figures.ratio_figures(results),
        generator_figures={
            name: figures.generator_figures(g)
            for name, g in results.get('generators', {}).items()},
        pictures={'strips': pictures.strips(shown.grids),
                  'classes': {name: list(grid[2])
                              for name, grid in shown.grids.items()},
                  'closest': pictures.closest(shown.pairs),
                  'interpolations': {
                      name: pictures.first_rows(grid, classes)
                      for name, grid in shown.interpolations.items()},
                  'representatives': {
                      name: (words.selected(results, name), pictures.first_rows(
                          grid, len(words.selected(results, name))))
                      for name, grid in shown.representatives.items()}})


@functools.cache
def _environment():
  """Returns the templates' environment with all that the page calls."""
  import jinja2

  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  environment.filters |= {
      'percent': words.percent, 'number': words.number, 'change': words.change,
      'distance': words.distance, 'short': words.short, 'p': words.p_value,
      'time': console.duration, 'label': words.label, 'flat': words.flat,
      'first_upper': words.first_upper, 'tint': tint, 'png': pictures.png}
  environment.globals |= {
      'rival': words.rival, 'images': words.images, 'by_class': by_class,
      'collapse': collapse.words, 'heatmap': pictures.heatmap,
      'grid_rows': pictures.GRID_ROWS, 'matrix_classes': MATRIX_CLASSES,
      'class_cells': CLASS_CELLS, 'min_runs': stats.MIN_RUNS}
  return environment


def _shown(classifier: dict, alpha: float) -> dict:
  """Returns what is said and drawn of one classifier."""
  steps = sorted({row['steps'] for row in classifier['arms'].values()})
  return {'answer': words.answer(classifier, alpha),
          'stronger': words.stronger_plain(classifier),
          'best': words.best(classifier), 'measures': measures(classifier),
          'steps': steps,
          'figures': figures.classifier_figures(classifier, alpha)}


def measures(classifier: dict) -> list:
  """Returns [(metric, {arm: its entry})], the one of the verdict first.

  Then shares before other numbers, and what should be low before the rest.
  """
  arms = {arm: row.get('metrics', {})
          for arm, row in classifier['arms'].items()}
  names = dict.fromkeys(name for metrics in arms.values() for name in metrics)
  rows = [(name, {arm: metrics[name] for arm, metrics in arms.items()})
          for name in names if all(name in m for m in arms.values())]
  def order(row):
    name, entries = row
    first = next(iter(entries.values()))
    return (name != classifier['metric'], not first['percent'],
            not first['lower_is_better'])
  return sorted(rows, key=order)


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


def by_class(arm: dict, what: str) -> list:
  """Returns an arm's 'error', 'precision', 'recall' or 'f1' by class."""
  return arm['per_class_error'] if what == 'error' else arm['per_class'][what]


def tint(value: float, strongest: float) -> int:
  """Returns the tint of a table cell, 0 to 60 percent of full colour."""
  return round(60 * min(1., abs(value) / strongest)) if strongest else 0
