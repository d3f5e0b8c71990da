"""Where each pixel comes from: whole shifts, resampling, and rectangles.

Images are [B, H, W, C] throughout, and every image has arguments of its own.
What lies outside an image is said by `padding`: 'constant' is `fill`, 'edge'
repeats the last pixel, 'reflect' mirrors about it.
"""
import jax.numpy as jnp

PADDINGS = ('constant', 'edge', 'reflect')


def column(values):
  """[B] -> [B, 1, 1, 1]."""
  return values[:, None, None, None]


def integer(uniform, low, high):
  """Uniform numbers in [0, 1) -> whole numbers in low..high, both included."""
  return low + jnp.floor(uniform * (high - low + 1)).astype(jnp.int32)


def _frame(images, padding, fill):
  """A border of one pixel holds everything that lies outside."""
  if padding != 'constant':
    return images
  return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)


def _inside(index, size, padding):
  """Any coordinate -> its row or column in the framed image."""
  if padding == 'constant':
    return jnp.clip(index, -1, size) + 1
  if padding == 'edge':
    return jnp.clip(index, 0, size - 1)
  return size - 1 - jnp.abs(size - 1 - index % max(2 * size - 2, 1))


def shift(images, dy, dx, padding, fill):
  """Moves each image by whole pixels, exactly; dy, dx int [B]."""
  height, width = images.shape[1:3]
  rows = _inside(jnp.arange(height) - dy[:, None], height, padding)
  columns = _inside(jnp.arange(width) - dx[:, None], width, padding)
  # dm_pix.random_crop crops one image, cannot say where, and knows no padding.
  images = jnp.take_along_axis(_frame(images, padding, fill),
                               rows[:, :, None, None], 1,
                               mode='promise_in_bounds')
  return jnp.take_along_axis(images, columns[:, None, :, None], 2,
                             mode='promise_in_bounds')


def resample(images, dy, dx, matrix, padding, fill, nearest: bool = False):
  """Pulls every pixel of the result from its place in the image.

  Gathers whole pixels, four for bilinear and one for nearest;
  dm_pix.affine_transform gathers one number at a time, and is about a hundred
  times slower on a CPU.

  Args:
    images: [B, H, W, C].
    dy, dx: [B], pixels by which the image moves before the matrix is applied.
    matrix: ((a, b), (c, d)), each [B], about the centre: from a row and column
      of the result to the place in the image.
    padding, fill: what lies outside.
    nearest: the nearest pixel instead of a bilinear mean.
  """
  batch, height, width, channels = images.shape
  down = jnp.arange(height) - (height - 1) / 2 - dy[:, None]
  right = jnp.arange(width) - (width - 1) / 2 - dx[:, None]

  def place(a, b, size):
    return ((a[:, None] * down)[:, :, None] + (b[:, None] * right)[:, None]
            + (size - 1) / 2)

  y, x = (place(*row, size) for row, size in zip(matrix, (height, width),
                                                 strict=True))
  if nearest:
    y, x = y + 0.5, x + 0.5
  top, left = jnp.floor(y), jnp.floor(x)
  framed = _frame(images, padding, fill)
  stride, pixels = framed.shape[2], framed.reshape(batch, -1, channels)

  def at(below, beside):
    row = _inside(top.astype(jnp.int32) + below, height, padding)
    column = _inside(left.astype(jnp.int32) + beside, width, padding)
    index = (row * stride + column).reshape(batch, -1, 1)
    return jnp.take_along_axis(
        pixels, index, 1, mode='promise_in_bounds').reshape(images.shape)

  if nearest:
    return at(0, 0)
  v, h = (y - top)[..., None], (x - left)[..., None]
  upper = (1 - h) * at(0, 0) + h * at(0, 1)
  lower = (1 - h) * at(1, 0) + h * at(1, 1)
  return ((1 - v) * upper + v * lower).astype(images.dtype)


def affine(images, dy, dx, rotation, zoom, shear, padding, fill):
  """Zooms, shears, rotates and shifts in one bilinear resampling.

  All arguments are [B]: dy, dx in pixels, the angles in degrees.
  """
  angle, tangent = jnp.radians(rotation), jnp.tan(jnp.radians(shear))
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  matrix = ((cos, sin), (-sin - tangent * cos, cos - tangent * sin))
  return resample(images, dy, dx, matrix, padding, fill)


def box(images, u_y, u_x, size):
  """Masks one rectangle; its centre may lie anywhere, its parts outside not.

  An even size has one centre more than there are pixels, so that both edges of
  the image are treated alike.

  Args:
    images: [B, H, W, C], for their size.
    u_y, u_x: uniform [B], where the centre lies.
    size: (rows, columns), whole numbers, the same for all or int [B].

  Returns:
    bool [B, H, W, 1].
  """
  def span(u, length, size):
    start = integer(u, 0, length - size % 2) - size // 2
    start, stop = start[:, None], jnp.reshape(start + size, (-1, 1))
    at = jnp.arange(length)
    return (at >= start) & (at < stop)

  return (span(u_y, images.shape[1], size[0])[:, :, None, None]
          & span(u_x, images.shape[2], size[1])[:, None, :, None])


def paint(images, u_y, u_x, size, fill):
  """Fills one rectangle of each image, see `box`, with `fill`."""
  return jnp.where(box(images, u_y, u_x, size),
                   jnp.asarray(fill, images.dtype), images)
