"""Draws the report's figures as SVG and its pictures as data URIs.

Figures are drawn in six marker colours that the style sheet of the page
replaces, so that they follow the reader's light or dark theme.
"""
import base64
import io
import math
import re

import numpy as np

INK, MUTED, LINE, CARD = '#101010', '#777777', '#dddddd', '#fefefe'
BLUE, ORANGE = '#0072b2', '#d55e00'  # Okabe and Ito; told apart by everyone.
COLORS = {INK: 'currentColor', MUTED: 'var(--muted)', LINE: 'var(--line)',
          CARD: 'var(--card)', BLUE: 'var(--blue)', ORANGE: 'var(--orange)'}
GRID_ROWS, GRID_COLUMNS = 20, 10   # Most classes and images a class shown.
GRID_SIDE = 480                    # Most pixels of another grid each way.
GRID_BYTES = 700_000               # Raw bytes of all grids together.
PAIRS, PAIR_BYTES = 8, 200_000     # Closest pairs shown, raw bytes together.


def style():
  """Returns the context in which figures are drawn, always the same."""
  import matplotlib

  return matplotlib.rc_context({
      'svg.fonttype': 'none', 'svg.hashsalt': 'jaxaug', 'font.size': 12,
      'font.family': 'DejaVu Sans', 'text.parse_math': False,
      'text.usetex': False, 'axes.unicode_minus': True})

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


def closest(pairs: dict) -> dict:
  """Returns pool -> 'train' and 'test' -> [(generated, real, distance)].

  Args:
    pairs: pool -> for train and test '*_pool' and '*_real', uint8
      [P, H, W, C], and '*_distance' [P]. The first PAIRS are shown; a pool
      may lack one of the two.
  """
  out = {}
  for name, found in pairs.items():
    out[name] = {}
    for split in ('train', 'test'):
      if not len(found.get(f'{split}_pool', ())):
        continue
      both = np.stack([found[f'{split}_pool'][:PAIRS],
                       found[f'{split}_real'][:PAIRS]])
      room = PAIR_BYTES / (2 * len(pairs) * both.shape[0] * both.shape[1] *
                           both.shape[-1])
      side = int(min(64, max(12, math.sqrt(room))))
      out[name][split] = [
          (png(made), png(real), float(distance)) for made, real, distance in
          zip(*_fit(both, PAIRS, side), found[f'{split}_distance'],
              strict=False)]
  return {name: found for name, found in out.items() if found}


def first_rows(image: np.ndarray, rows: int) -> str:
  """Returns the first rows of a grid of `rows` rows as a data URI.

  Shrunk to at most GRID_SIDE pixels each way.
  """
  from PIL import Image

  image = image[:round(len(image) * min(1, GRID_ROWS / rows))]
  small = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  small.thumbnail((GRID_SIDE, GRID_SIDE), Image.Resampling.LANCZOS)
  pixels = np.asarray(small)
  return png(pixels if pixels.ndim == 3 else pixels[..., None])


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


def interval_figure(rows: list, label: str, center: float | None):
  """Draws a dot a run, their mean and its interval, an arm by row.

  Args:
    rows: (name, values [runs], (mean, low, high), color); low and high may be
      None.
    label: the horizontal axis.
    center: where the dashed line stands.
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
    ax.text(0, y - .38, name[:46] + '…' * (len(name) > 46), fontsize=12,
            color=INK, va='center', transform=ax.get_yaxis_transform(),
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
  apart = .012 * ratios[-1] * (len(lines) > 1)
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
  ax.grid(axis='y', color=LINE, lw=.8)
  ax.set_xticks(ratios)
  ax.xaxis.set_major_formatter('{x:g}')
  ax.margins(y=.08)
  ax.set_xlabel('generated images, % of the real ones', color=INK, fontsize=11)
  ax.legend(handles=handles, loc='lower left', bbox_to_anchor=(0, 1), ncols=4,
            frameon=False, fontsize=11, labelcolor=INK, borderpad=0,
            handlelength=1.2, borderaxespad=.3, columnspacing=1.2)
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


def _choice(points: list, name: str, chosen: int) -> list:
  fig, ax = _axes(400, 220, 46, 12, 26, 40)
  ax.plot([p['step'] for p in points], [p[name] for p in points], color=BLUE,
          lw=1.6, marker='o', ms=4)
  ax.axvline(chosen, color=ORANGE, lw=1.2)
  ax.grid(axis='y', color=LINE, lw=.8)
  ax.locator_params(axis='x', nbins=5)
  ax.set_xlabel('step', color=INK, fontsize=11)
  title = f'{name} beside the validation split; kept: step {chosen:,}'
  return [(title, svg(fig, title))]


def generator_figures(curves: list, choice: list = (), chosen_by: str = '',
                      chosen: int | None = None,
                      watched: dict | None = None) -> list:
  """Returns (title, figure) of losses, of discriminator accuracies, of the
  number by which the step `chosen` was chosen, and of what tells a collapse:
  `watched` says which key of `choice` is 'obedience' and which 'diversity'."""
  out = _choice(choice, chosen_by, chosen) if choice else []
  for title, points, kinds, scale in (
      ('Label obedience, and diversity beside real images, %', choice,
       {key: name for name, key in (watched or {}).items()}, 100),
      ('Losses', curves, {'d_loss': 'discriminator', 'g_loss': 'generator'}, 1),
      ('Discriminator accuracy, %', curves, {
          'd_accuracy_real': 'on real', 'd_accuracy_fake': 'on generated'},
       100)):
    fig, ax = _axes(400, 220, 46, 12, 26, 40)
    for (key, name), color in zip(kinds.items(), (BLUE, ORANGE),
                                  strict=False):
      points_ = [(point['step'], scale * point[key]) for point in points
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
