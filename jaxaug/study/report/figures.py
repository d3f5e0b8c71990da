"""Draws the report's figures as SVG.

Figures are drawn in six marker colours that the style sheet of the page
replaces, so that they follow the reader's light or dark theme.
"""
import collections
import io
import re

import numpy as np

from jaxaug.evaluation import stats
from jaxaug.study.report import words

INK, MUTED, LINE, CARD = '#101010', '#777777', '#dddddd', '#fefefe'
BLUE, ORANGE = '#0072b2', '#d55e00'  # Okabe and Ito; told apart by everyone.
COLORS = {INK: 'currentColor', MUTED: 'var(--muted)', LINE: 'var(--line)',
          CARD: 'var(--card)', BLUE: 'var(--blue)', ORANGE: 'var(--orange)'}
VERDICT_COLORS = {'helps': BLUE, 'hurts': ORANGE}


def style():
  """Returns the context in which figures are drawn, always the same."""
  import matplotlib

  return matplotlib.rc_context({
      'svg.fonttype': 'none', 'svg.hashsalt': 'jaxaug', 'font.size': 12,
      'font.family': 'DejaVu Sans', 'text.parse_math': False,
      'text.usetex': False, 'axes.unicode_minus': True})


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


def _scale(ax, label: str, ticks: int | None = None):
  """Names the horizontal axis and draws lines at the vertical one's ticks."""
  ax.grid(axis='y', color=LINE, lw=.8)
  if ticks:
    ax.locator_params(axis='x', nbins=ticks)
  ax.set_xlabel(label, color=INK, fontsize=11)


def _legend(ax, columns: int, **more):
  """Writes the legend above the axes."""
  ax.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=columns,
            frameon=False, fontsize=11, labelcolor=INK, borderpad=0,
            handlelength=1.2, borderaxespad=.3, **more)


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


# ----------------------------------------------------- arms and their runs
def classifier_figures(classifier: dict, alpha: float) -> dict:
  """Returns 'own', 'differences' (or None) and 'curves' by arm."""
  arms, base = classifier['arms'], classifier['baseline']
  if not arms:
    return {'own': None, 'differences': None, 'curves': {}}
  folds, scale = classifier['folds'], _percent(classifier)
  values = {arm: scale * np.asarray(row['values'], float)
            for arm, row in arms.items()}
  if folds > 1:  # A dot a fold: its runs share their test images.
    values = {arm: v.reshape(folds, -1).mean(1) for arm, v in values.items()}
  center = scale * arms[base]['mean'] if base in arms else None
  def dots(arm, name, others):
    test = stats.paired(values[arm], others, alpha, stats.test_share(folds))
    return (name, values[arm] - others,
            [test[k] for k in ('difference', 'low', 'high')],
            VERDICT_COLORS.get(arms[arm]['verdict'], INK))
  own = [dots(arm, f'{arm} (baseline)' if arm == base else arm,
              np.zeros_like(v)) for arm, v in values.items()]
  apart = []
  for arm, row in arms.items():
    other = words.rival(row, classifier)
    if (other or base) not in values:
      continue
    apart.append(dots(arm, f'{arm} against {other}' if other else arm,
                      values[other or base]))
  return {
      'own': interval_figure(own, f'test {words.label(classifier)}', center),
      'differences': interval_figure(apart, _direction(classifier), 0.)
                     if len(apart) > 1 or center is None and apart else None,
      'curves': _curves(arms, base)}


def _percent(of: dict) -> int:
  """Returns what a measure's values are multiplied by to be drawn."""
  return 100 if of['percent'] else 1


def _direction(classifier: dict) -> str:
  """Returns the words under an axis of differences."""
  unit = 'points' if classifier['percent'] else 'difference'
  if classifier['lower_is_better']:
    return f'← better · {unit} · worse →'
  return f'← worse · {unit} · better →'


def interval_figure(rows: list, label: str, center: float | None):
  """Draws a dot a run, their mean and its interval, an arm by row.

  Args:
    rows: (name, values [runs], (mean, low, high), color); low and high may be
      None.
    label: the horizontal axis.
    center: where the dashed line stands; None for no line.
  """
  step = 44
  fig, ax = _axes(390, step * len(rows) + 44, 12, 12, 4, 40)
  for y, (name, values, (mean, low, high), color) in enumerate(rows):
    ax.scatter(values, [y + .2] * len(values), s=15, color=color, alpha=.45,
               linewidths=0, zorder=2)
    if low is not None:
      ax.plot([low, high], [y, y], color=color, lw=2.5,
              solid_capstyle='round', zorder=3)
    ax.plot([mean], [y], 'o', color=color, ms=8, zorder=4)
    ax.text(0, y - .38, f'{name[:46]}…' if len(name) > 46 else name,
            fontsize=12, color=INK, va='center',
            transform=ax.get_yaxis_transform(),
            bbox={'facecolor': CARD, 'linewidth': 0, 'pad': 1})
  if center is not None:
    ax.axvline(center, color=MUTED, lw=1, dashes=(4, 3), zorder=1)
  ax.grid(axis='x', color=LINE, lw=.8)
  ax.set_ylim(len(rows) - .5, -.65)
  ax.set_yticks([])
  ax.margins(x=.06)
  ax.locator_params(axis='x', nbins=7)
  ax.set_xlabel(label, color=INK, fontsize=12)
  return svg(fig, label)


def _curves(arms: dict, baseline: str) -> dict:
  """Returns the learning curves of the arms that have any."""
  limits, out = curve_limits(arms), {}
  for arm, row in arms.items():
    if any(row['curves']):
      beside = None if arm == baseline or baseline not in arms else (
          arms[baseline]['curves'])
      out[arm] = curve_figure(row['curves'], beside, limits)
  return out


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
  _scale(ax, 'step', 4)
  ax.set_ylim(*limits)
  ax.locator_params(axis='y', nbins=5)
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


# ---------------------------------------------------------------- by ratio
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
    if groups := classifier.get('ratios'):
      out[name] = [_ratios(classifier, group, published) for group in groups]
  return out


def _ratios(classifier: dict, group: dict, published: dict) -> tuple:
  """Returns the caption and the figure of one entry of 'ratios'.

  published: arm -> published values of it.
  """
  scale = _percent(classifier)
  lines = {kind: [
      (100 * point['ratio'], *(None if point[k] is None else scale * point[k]
                               for k in ('mean', 'low', 'high')))
      for point in points] for kind, points in group['lines'].items()}
  marks = {kind: [(100 * point['ratio'], scale * value) for point in points
                  for value in published.get(point['arm'], ())]
           for kind, points in group['lines'].items()}
  beside = f' beside {group["plain"]}' if group['plain'] else ''
  caption = f'test {words.label(classifier)}, images of {group["pool"]}{beside}'
  return caption, ratio_figure(lines, marks, caption)


def _ratio_line(ax, points: list, marks: list, shift: float, color: str,
                marker: str):
  """Draws one line of `ratio_figure`, its intervals and published values."""
  def look(at):  # Real images alone belong to no line.
    return (at + shift, color, marker) if at else (0, INK, 'D')
  ax.plot([look(at)[0] for at, *_ in points], [p[1] for p in points],
          color=color, lw=1.6, zorder=2)
  for at, mean, low, high in points:
    x, ink, shape = look(at)
    ax.plot([x], [mean], shape, color=ink, ms=6, zorder=4)
    if low is not None:
      ax.plot([x, x], [low, high], color=ink, lw=2.5, alpha=.6,
              solid_capstyle='round', zorder=3)
  for at, value in marks:
    x, ink, shape = look(at)
    ax.plot([x], [value], shape, mec=ink, mfc='none', mew=1.5, ms=8, zorder=5)


def ratio_figure(lines: dict, marks: dict, label: str):
  """Draws a measure against the ratio of generated images, a line a use.

  Args:
    lines: 'replace' or 'add' -> points (generated images in percent of the
      real ones, mean, low, high); low and high may be None. At 0 are real
      images alone, the same point in every line.
    marks: the same names -> published points (percent, value), drawn hollow.
    label: of what is drawn.
  """
  from matplotlib.lines import Line2D

  fig, ax = _axes(400, 260, 46, 12, 26, 40)
  ratios = sorted({point[0] for line in lines.values() for point in line})
  # Two lines' marks at one ratio would hide each other.
  apart = .012 * ratios[-1] if len(lines) > 1 else 0
  handles = []
  for kind, (color, marker, name, side) in {
      'replace': (ORANGE, 's', 'replacing', -1),
      'add': (BLUE, 'o', 'added', 1)}.items():
    if kind in lines:
      _ratio_line(ax, lines[kind], marks.get(kind, []), side * apart, color,
                  marker)
      handles.append(Line2D([], [], color=color, marker=marker, ms=6,
                            label=name))
  if not ratios[0]:
    handles.append(Line2D([], [], color=INK, marker='D', lw=0, ms=6,
                          label='real'))
  if any(marks.values()):
    handles.append(Line2D([], [], color=INK, marker='o', mfc='none', lw=0,
                          ms=8, mew=1.5, label='published'))
  ax.set_xticks(ratios)
  ax.xaxis.set_major_formatter('{x:g}')
  ax.margins(y=.08)
  _scale(ax, 'generated images, % of the real ones')
  _legend(ax, 4, handles=handles, columnspacing=1.2)
  return svg(fig, label)


# --------------------------------------------------------------- generators
def generator_figures(generator: dict) -> list:
  """Returns (title, figure) of what is known of a generator's training.

  The number by which its weights were chosen, what tells a collapse (of which
  'watched' names the keys), losses, and the discriminator's accuracies.

  Args:
    generator: its entry in results.json.
  """
  out, choice = [], generator.get('choice', ())
  if choice:
    out.append(_choice(choice, generator['curve'], generator['chosen_step']))
  watched = {key: name for name, key in generator.get('watched', {}).items()}
  for title, points, kinds, scale in (
      ('Label obedience, and diversity beside real images, %', choice,
       watched, 100),
      ('Losses', generator['curves'],
       {'d_loss': 'discriminator', 'g_loss': 'generator'}, 1),
      ('Discriminator accuracy, %', generator['curves'],
       {'d_accuracy_real': 'on real', 'd_accuracy_fake': 'on generated'},
       100)):
    lines = {name: [(p['step'], scale * p[key]) for p in points
                    if p.get(key) is not None] for key, name in kinds.items()}
    if any(lines.values()):
      out.append((title, _lines(lines, title)))
  return out


def _choice(points: list, name: str, chosen: int) -> tuple:
  """Returns the title and the figure of the choice of a generator's step."""
  fig, ax = _axes(400, 220, 46, 12, 26, 40)
  ax.plot([p['step'] for p in points], [p[name] for p in points], color=BLUE,
          lw=1.6, marker='o', ms=4)
  ax.axvline(chosen, color=ORANGE, lw=1.2)
  _scale(ax, 'step', 5)
  title = f'{name} beside the validation split; kept: step {chosen:,}'
  return title, svg(fig, title)


def _lines(lines: dict, title: str):
  """Draws up to two lines by step: name -> [(step, value)]."""
  fig, ax = _axes(400, 220, 46, 12, 26, 40)
  for (name, points), color in zip(lines.items(), (BLUE, ORANGE),
                                   strict=False):
    if points:
      # Means of up to 150 stretches; single steps would be a solid block.
      parts = np.array_split(np.array(points), min(150, len(points)))
      x, y = np.array([part.mean(0) for part in parts]).T
      ax.plot(x, y, color=color, lw=1.6, label=name)
  _scale(ax, 'step', 5)
  _legend(ax, 2)
  return svg(fig, title)
