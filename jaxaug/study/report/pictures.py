"""Turns images into the report's small pictures, as PNG inside the page."""
import base64
import io
import math

import numpy as np

from jaxaug.data import images

GRID_ROWS, GRID_COLUMNS = 20, 10   # Most classes and images a class shown.
GRID_SIDE = 480                    # Most pixels of another grid each way.
GRID_BYTES = 700_000               # Raw bytes of all grids together.
PAIRS, PAIR_BYTES = 8, 200_000     # Closest pairs shown, raw bytes together.


def png(image: np.ndarray) -> str:
  """Returns uint8 [H, W, C] (C is 1 or 3) as a data URI."""
  return _uri(images.to_pil(image))


def _uri(picture) -> str:
  buffer = io.BytesIO()
  picture.save(buffer, 'png', optimize=True)
  return ('data:image/png;base64,' +
          base64.b64encode(buffer.getvalue()).decode())


def _side(room: float) -> int:
  """Returns the longest side of images that have `room` pixels each."""
  return int(min(64, max(12, math.sqrt(room))))


def _shrunk(image: np.ndarray, side: int):
  """Returns uint8 [H, W, C] as a PIL image of at most `side` pixels."""
  from PIL import Image

  height, width = image.shape[:2]
  scale = side / max(height, width)
  picture = images.to_pil(image)
  if scale >= 1:
    return picture
  size = max(1, round(width * scale)), max(1, round(height * scale))
  return picture.resize(size, Image.Resampling.LANCZOS)


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
    side = _side(room / columns * max(height, width) / min(height, width))
    real, generated = (
        [[_uri(_shrunk(image, side)) for image in row[:columns]]
         for row in grid[:GRID_ROWS]] for grid in pair[:2])
    out[name] = list(zip(real, generated, strict=True))
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
      made = found.get(f'{split}_pool', ())[:PAIRS]
      if not len(made):
        continue
      side = _side(PAIR_BYTES / (2 * len(pairs) * 2 * len(made) *
                                 made.shape[-1]))
      out[name][split] = [
          (*(_uri(_shrunk(image, side)) for image in both), float(distance))
          for *both, distance in zip(
              made, found[f'{split}_real'], found[f'{split}_distance'],
              strict=False)]
  return {name: found for name, found in out.items() if found}


def first_rows(grid: np.ndarray, rows: int) -> str:
  """Returns the first rows of a grid of `rows` rows as a data URI.

  Shrunk to at most GRID_SIDE pixels each way.
  """
  from PIL import Image

  picture = images.to_pil(grid[:round(len(grid) * min(1, GRID_ROWS / rows))])
  picture.thumbnail((GRID_SIDE, GRID_SIDE), Image.Resampling.LANCZOS)
  return _uri(picture)


def heatmap(confusion) -> np.ndarray:
  """Draws a confusion matrix, a pixel a cell: dark is a large share of a row.

  Args:
    confusion: counts [K, K], the true class by row.

  Returns:
    uint8 [K, K, 3]; of a class without images the row is white.
  """
  rows = np.asarray(confusion, float)
  rows = rows / np.maximum(rows.sum(1, keepdims=True), 1)
  white, blue = np.full(3, 255.), np.array([0., 74., 122.])
  return (white + np.sqrt(rows)[..., None] * (blue - white)).astype(np.uint8)
