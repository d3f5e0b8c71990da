"""Turns a study's results into one self-contained page and a terminal table.

The page needs no network and no scripts: style and figures are inside it.
Figures are drawn in six marker colours that the style sheet replaces, so
that they follow the reader's light or dark theme.
"""
import base64
import collections
import io
import math
import pathlib
import re

import numpy as np

from jaxaug import artefacts, stats

INK, MUTED, LINE, CARD = '#101010', '#777777', '#dddddd', '#fefefe'
BLUE, ORANGE = '#0072b2', '#d55e00'  # Okabe and Ito; told apart by everyone.
COLORS = {INK: 'currentColor', MUTED: 'var(--muted)', LINE: 'var(--line)',
          CARD: 'var(--card)', BLUE: 'var(--blue)', ORANGE: 'var(--orange)'}
VERDICT_COLORS = {'helps': BLUE, 'hurts': ORANGE}
GRID_ROWS, GRID_COLUMNS = 20, 10   # Most classes and images a class shown.
GRID_BYTES = 700_000               # Raw bytes of all grids together.
MATRIX_CLASSES = 20                # Above, a confusion matrix is a picture.


# ---------------------------------------------------------------- the stage
def write(results: dict, grids: dict, path):
  """Writes the report page.

  Args:
    results: what the evaluate stage wrote to results.json.
    grids: generator -> (real, generated), uint8 [K, M, H, W, C] each, class
      by row, C is 1 or 3; unselected, as the page says so.
    path: where the page goes; replaced only once it is whole.
  """
  text = page(results, grids).encode()
  with artefacts.replacing(path) as f:
    f.write(text)


def page(results: dict, grids: dict) -> str:
  """Returns the report as HTML; arguments as in `write`."""
  import jinja2
  import matplotlib

  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  environment.filters |= {
      'percent': percent, 'points': points, 'p': p_value, 'time': duration,
      'flat': flat, 'share': share}
  with matplotlib.rc_context({
      'svg.fonttype': 'none', 'svg.hashsalt': 'jaxaug', 'font.size': 12,
      'font.family': 'DejaVu Sans', 'text.parse_math': False,
      'text.usetex': False, 'axes.unicode_minus': True}):
    return environment.get_template('report.html.jinja').render(
        r=results, rival=rival, level=f'{100 * (1 - results["alpha"]):g} %',
        answers={name: answer(c, results['alpha'])
                 for name, c in results['classifiers'].items()},
        stronger={name: stronger_plain(c)
                  for name, c in results['classifiers'].items()},
        cautions=cautions(results), strips=strips(grids),
        figures={name: classifier_figures(c, results['alpha'])
                 for name, c in results['classifiers'].items()},
        generator_figures={
            name: generator_figures(g['curves'])
            for name, g in results.get('generators', {}).items()},
        best={name: best(c) for name, c in results['classifiers'].items()},
        matrix_classes=MATRIX_CLASSES, min_runs=stats.MIN_RUNS,
        heatmap=heatmap)


def verdict_table(results: dict):
  """Returns the verdicts as a rich.table.Table for the terminal."""
  from rich import box, table, text

  out = table.Table(
      title=f'Verdicts of {results["study"]}', title_justify='left',
      box=box.SIMPLE, padding=(0, 1, 0, 0), caption_justify='left',
      caption='Difference to the baseline, or the arm named, in points of test '
              f'error with its {100 * (1 - results["alpha"]):g} % interval; p '
              'after Holm.')
  out.add_column('arm', overflow='fold')
  for column in ('real +\nsynthetic', 'error %', 'difference', 'p'):
    out.add_column(column, justify='right', no_wrap=True)
  out.add_column('verdict', no_wrap=True)
  styles = {'helps': 'bold blue', 'hurts': 'bold red', 'baseline': 'dim'}
  for name, classifier in results['classifiers'].items():
    out.add_row(text.Text(name, 'bold'))
    for arm, row in classifier['arms'].items():
      compared = row['difference'] is not None
      spread = '' if row['std'] is None else f'\n± {percent(row["std"])}'
      interval = '' if row['low'] is None else (
          f'\n[{points(row["low"])}, {points(row["high"])}]')
      other = rival(row, classifier)
      out.add_row(
          text.Text(f' {arm}' + f'\n  against {other}' * bool(other)),
          f'{row["real"]:,} + {row["synthetic"]:,}',
          f'{percent(row["mean"])}{spread} ({row["n"]})',
          text.Text(points(row['difference']) + interval if compared else ''),
          p_value(row['p_corrected']) if compared else '',
          text.Text(row['verdict'], styles.get(row['verdict'], '')))
    out.add_section()
  return out


# ---------------------------------------------------------- words and numbers
def percent(fraction, digits: int = 2) -> str:
  """Returns a fraction as a number of percent, or a dash for None."""
  return '–' if fraction is None else f'{100 * fraction:.{digits}f}'


def points(fraction) -> str:
  """Returns a difference of fractions as signed percentage points."""
  if fraction is None:
    return '–'
  text = f'{100 * fraction:+.2f}'
  return '0.00' if text[1:] == '0.00' else text.replace('-', '−')


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


def share(value: float, strongest: float) -> int:
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


def rival(row: dict, classifier: dict) -> str | None:
  """Names what an arm is compared with where that is not the baseline."""
  other = row.get('baseline')
  return None if other == classifier['baseline'] else other


def _clause(row: dict, alpha: float, other: str | None) -> str:
  """Returns an arm's difference, interval and runs in words."""
  interval = '' if row['low'] is None else (
      f'{100 * (1 - alpha):g} % interval {points(row["low"])} to '
      f'{points(row["high"])}, ')
  other = f' to {other}' if other else ''
  return (f'difference{other} {points(row["difference"])} points, {interval}'
          f'{row["n"]} paired run{"s" if row["n"] > 1 else ""}')


def answer(classifier: dict, alpha: float) -> dict:
  """Answers the study's question for one classifier in plain words.

  Returns:
    'verdict', one word or two for all arms with generated images together;
    'sentence'; 'lines', (verdict, arm, numbers) for each arm that the
    sentence only counts; 'plain', those of arms without generated images.
  """
  arms = {arm: row for arm, row in classifier['arms'].items()
          if arm != classifier['baseline']}
  lines, plain = [], []
  for arm, row in arms.items():
    text = row['description'] or arm
    (lines if row['synthetic'] else plain).append(
        (row['verdict'], text[0].upper() + text[1:],
         _clause(row, alpha, rival(row, classifier))))
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


def stronger_plain(classifier: dict) -> str | None:
  """Names an arm without generated images that beats all arms with them."""
  arms = classifier['arms']
  means = {arm: row['mean'] for arm, row in arms.items()}
  generated = [means[arm] for arm in arms if arms[arm]['synthetic']]
  plain = [arm for arm in arms if not arms[arm]['synthetic']]
  first = min(plain, key=means.get, default=None)
  return first if generated and plain and means[first] < min(
      generated) else None


def cautions(results: dict) -> list:
  """Returns what a reader must know before trusting the verdicts."""
  out = []
  fewest = min(row['n'] for c in results['classifiers'].values()
               for row in c['arms'].values())
  if fewest < stats.MIN_RUNS:
    out.append(f'Some arm has {fewest} paired run'
               f'{"s" if fewest > 1 else ""}: no verdict is given under '
               f'{stats.MIN_RUNS}.')
  for key, count in flat(results['data'].get('overlaps', {})):
    if count not in ('0', 'None', '[]', '{}'):
      out.append(f'Identical images in two splits ({key}): {count}.')
  for name, pool in results.get('pools', {}).items():
    for split in ('test', 'train'):
      if count := pool[f'copies_of_{split}']:
        out.append(f'Pool {name} holds {count} exact '
                   f'cop{"ies" if count > 1 else "y"} of {split} images.')
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
  return min(arms, key=lambda a: arms[a]['mean']), 'lowest mean test error'


# ------------------------------------------------------------------- pictures
def png(image: np.ndarray) -> str:
  """Returns uint8 [H, W, C] (C is 1 or 3) as a data URI."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
      buffer, 'png', optimize=True)
  return ('data:image/png;base64,' +
          base64.b64encode(buffer.getvalue()).decode())


def _fit(images: np.ndarray, columns: int, side: int) -> np.ndarray:
  """Returns the first rows and columns, shrunk to at most `side` pixels."""
  from PIL import Image

  images = np.asarray(images)[:GRID_ROWS, :columns]
  height, width, channels = images.shape[2:]
  scale = side / max(height, width)
  if scale >= 1:
    return images
  size = max(1, round(width * scale)), max(1, round(height * scale))
  small = [np.asarray(Image.fromarray(i[..., 0] if channels == 1 else i)
                      .resize(size, Image.Resampling.LANCZOS))
           for i in images.reshape((-1, height, width, channels))]
  return np.stack(small).reshape(
      images.shape[:2] + (size[1], size[0], channels))


def strips(grids: dict) -> dict:
  """Returns name -> [([real], [generated]) data URIs], a class by row.

  Fewer columns first, smaller images second, keep all grids in GRID_BYTES.
  """
  out = {}
  for name, pair in grids.items():
    rows, _, height, width, channels = np.shape(pair[0])
    room = GRID_BYTES / (2 * len(grids) * min(rows, GRID_ROWS) * channels)
    shrunk = min(1., 64 / max(height, width))
    columns = room / (height * width * shrunk ** 2)
    columns = int(min(GRID_COLUMNS, max(4, columns)))
    longest = math.sqrt(room / columns * max(height, width) /
                        min(height, width))
    side = int(min(64, max(12, longest)))
    real, generated = (_fit(images, columns, side) for images in pair)
    out[name] = [([png(i) for i in one], [png(i) for i in other])
                 for one, other in zip(real, generated, strict=True)]
  return out


def heatmap(confusion) -> str:
  """Returns a confusion matrix as a picture: a pixel a cell, rows sum to 1."""
  rows = np.asarray(confusion, float)
  rows /= np.maximum(rows.sum(1, keepdims=True), 1)
  white, blue = np.full(3, 255.), np.array([0., 74., 122.])
  return png((white + np.sqrt(rows)[..., None] * (blue - white))
             .astype(np.uint8))


def _axes(width: int, height: int, left=8, right=8, top=8, bottom=34):
  """Returns a figure of that many pixels and its one pair of axes."""
  from matplotlib import figure

  fig = figure.Figure(figsize=(width / 72, height / 72), dpi=72)
  ax = fig.add_axes((left / width, bottom / height,
                     1 - (left + right) / width,
                     1 - (top + bottom) / height))
  fig.patch.set_alpha(0)
  ax.patch.set_alpha(0)
  ax.spines[['top', 'right', 'left']].set_visible(False)
  ax.spines['bottom'].set_color(MUTED)
  ax.tick_params(colors=MUTED, labelcolor=INK, length=3, labelsize=11)
  ax.set_axisbelow(True)
  return fig, ax


def svg(fig, label: str):
  """Returns a figure as inline SVG that takes its colours from the page."""
  import markupsafe

  buffer = io.StringIO()
  fig.savefig(buffer, format='svg', metadata=dict.fromkeys(
      ('Creator', 'Date', 'Format', 'Type')))
  text = buffer.getvalue()
  text = text[text.index('<svg'):]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  text = re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)
  box = re.search(r'viewBox="[^"]*"', text).group()
  text = re.sub(r'^<svg[^>]*>', '', text).replace("'DejaVu Sans'", 'inherit')
  text = re.sub(r'\b(font-family): inherit[^;"]*', r'\1: inherit', text)
  text = re.sub(r'\bid="(?:figure|patch|axes|line2d|text|matplotlib|xtick|'
                r'ytick|LineCollection|FillBetween|PathCollection)[^"]*"', '',
                text)
  for color, variable in COLORS.items():
    text = text.replace(color, variable)
  return markupsafe.Markup(
      f'<svg {box} role="img" aria-label="{markupsafe.escape(label)}">'
  ) + markupsafe.Markup(re.sub(r'\n\s*', '\n', text))


def interval_figure(rows: list, label: str, center: float | None,
                    alpha: float):
  """Draws a dot a run, their mean and its interval, an arm by row.

  Args:
    rows: (name, values in percent [runs], color); the interval is Student's.
    label: the horizontal axis.
    center: where the dashed line stands.
  """
  step = 44
  fig, ax = _axes(390, step * len(rows) + 44, 12, 12, 4, 40)
  for y, (name, values, color) in enumerate(rows):
    test = stats.paired(values, np.zeros(len(values)), alpha)
    mean = test['difference']
    ax.scatter(values, [y + .2] * len(values), s=15, color=color, alpha=.45,
               linewidths=0, zorder=2)
    if test['low'] is not None:
      ax.plot([test['low'], test['high']], [y, y], color=color, lw=2.5,
              solid_capstyle='round', zorder=3)
    ax.plot([mean], [y], 'o', color=color, ms=8, zorder=4)
    ax.text(0, y - .38, name[:46] + '…' * (len(name) > 46), fontsize=12,
            color=INK, va='center', transform=ax.get_yaxis_transform(),
            bbox={'facecolor': CARD, 'linewidth': 0, 'pad': 1})
  if center is not None:
    ax.axvline(center, color=MUTED, lw=1, dashes=(4, 3), zorder=1)
  ax.grid(axis='x', color=LINE, lw=.8)
  ax.set_ylim(len(rows) - .5, -.65)
  ax.set_yticks([])
  ax.margins(x=.06)
  ax.set_xlabel(label, color=INK, fontsize=12)
  return svg(fig, label)


def curve_figure(arm: list, baseline: list | None, limits: tuple):
  """Draws validation error by step: mean and range over the runs.

  Args:
    arm, baseline: for each run a list of {'step', 'validation_error'}.
    limits: (lowest, highest) percent of the vertical axis.
  """
  fig, ax = _axes(250, 170, 34, 14, 8, 38)
  for curves, color in ((baseline, MUTED), (arm, BLUE)):
    if curves:
      steps, values = by_step(curves)
      ax.fill_between(steps, [min(v) for v in values],
                      [max(v) for v in values], color=color, alpha=.2, lw=0)
      ax.plot(steps, [np.mean(v) for v in values], color=color, lw=2,
              marker='o' if len(steps) == 1 else None)
  ax.grid(axis='y', color=LINE, lw=.8)
  ax.set_ylim(*limits)
  ax.locator_params(axis='x', nbins=4)
  ax.locator_params(axis='y', nbins=5)
  ax.set_xlabel('step', color=INK, fontsize=11)
  return svg(fig, 'Validation error in percent by step')


def by_step(curves: list) -> tuple:
  """Returns sorted steps, and for each the percent of every run there."""
  at = {}
  for run in curves:
    for point in run:
      at.setdefault(point['step'], []).append(100 * point['validation_error'])
  steps = sorted(at)
  return steps, [at[step] for step in steps]


def curve_limits(arms: dict) -> tuple | None:
  """Returns an axis for all arms that leaves out the fall of first steps."""
  values = []
  for row in arms.values():
    if any(row['curves']):
      steps, errors = by_step(row['curves'])
      values += [e for step, each in zip(steps, errors, strict=True)
                 if step >= .3 * steps[-1] for e in each]
  if not values:
    return None
  low, high = min(values), max(values)
  room = max(.08 * (high - low), .5)
  return max(0, low - room), high + room


def classifier_figures(classifier: dict, alpha: float) -> dict:
  """Returns 'errors', 'differences' (or None) and 'curves' by arm."""
  arms, base = classifier['arms'], classifier['baseline']
  reference = arms[base]
  colors = {arm: VERDICT_COLORS.get(row['verdict'], INK)
            for arm, row in arms.items()}
  labels = {arm: arm + ' (baseline)' * (arm == base) for arm in arms}
  rivals = {arm: rival(row, classifier) for arm, row in arms.items()}
  errors = [(labels[arm], 100 * np.asarray(row['errors']), colors[arm])
            for arm, row in arms.items()]
  differences = [
      (labels[arm] + f' against {rivals[arm]}' * bool(rivals[arm]),
       100 * np.subtract(row['errors'], arms[rivals[arm] or base]['errors']),
       colors[arm]) for arm, row in arms.items()]
  limits = curve_limits(arms)
  return {
      'errors': interval_figure(errors, 'test error, %',
                                100 * reference['mean'], alpha),
      'differences': interval_figure(
          differences, '← fewer errors · points · more errors →', 0.,
          alpha) if len(arms) > 1 else None,
      'curves': {
          arm: curve_figure(row['curves'], None if arm == base
                            else reference['curves'], limits)
          for arm, row in arms.items() if any(row['curves'])}}


def generator_figures(curves: list) -> list:
  """Returns (title, figure) of losses and of discriminator accuracies."""
  out = []
  for title, kinds, scale in (
      ('Losses', {'d_loss': 'discriminator', 'g_loss': 'generator'}, 1),
      ('Discriminator accuracy, %', {
          'd_accuracy_real': 'on real', 'd_accuracy_fake': 'on generated'},
       100)):
    fig, ax = _axes(400, 220, 46, 12, 26, 40)
    for (key, name), color in zip(kinds.items(), (BLUE, ORANGE),
                                  strict=True):
      points_ = [(point['step'], scale * point[key]) for point in curves
                 if point.get(key) is not None]
      if points_:
        # Means of up to 150 stretches; single steps would be a solid block.
        parts = np.array_split(np.array(points_), min(150, len(points_)))
        x, y = np.array([part.mean(0) for part in parts]).T
        ax.plot(x, y, color=color, lw=1.6, label=name)
    if not ax.lines:
      continue
    ax.grid(axis='y', color=LINE, lw=.8)
    ax.locator_params(axis='x', nbins=5)
    ax.set_xlabel('step', color=INK, fontsize=11)
    ax.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2,
              frameon=False, fontsize=11, labelcolor=INK, borderpad=0,
              handlelength=1.2, borderaxespad=.3)
    out.append((title, svg(fig, title)))
  return out
