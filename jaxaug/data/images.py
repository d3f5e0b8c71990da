"""Image files and uint8 arrays: decode, fit to one size, save, hash."""
import collections
import contextlib
import functools
import hashlib
import math
import os
import warnings

import numpy as np

from jaxaug.core import errors, memory

# Pillow's modes, as a person would say what is wrong with the file.
_REFUSED = {
    '1': 'a 1-bit image', 'P': 'a palette image', 'PA': 'a palette image',
    'LA': 'an image with an alpha channel', 'CMYK': 'a CMYK image',
    'RGBA': 'an image with an alpha channel', 'I': 'a 16- or 32-bit image',
    'I;16': 'a 16-bit image', 'I;16B': 'a 16-bit image'}
# Of the files that are taken for images in a folder.
ENDINGS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP')
_ORIENTATION = 0x112  # Its number in EXIF.
# What Pillow calls the parts of a header in which that may stand.
_METADATA = {'exif', 'Raw profile type exif', 'xmp', 'XML:com.adobe.xmp'}


def decode(path) -> np.ndarray:
  """Reads one PNG, JPEG, WebP or BMP file completely.

  A photo's EXIF orientation is applied, so that up is up.

  Returns:
    uint8 [H, W, C]: C is 1 for 8-bit grey, 3 for 8-bit RGB.

  Raises:
    InputError: the file is missing, damaged, or of another kind (16-bit,
      palette, CMYK, alpha, animated).
  """
  from PIL import ImageOps
  with _opened(path, whole=True) as image:
    pixels = np.array(ImageOps.exif_transpose(image))
  return pixels[..., None] if pixels.ndim == 2 else pixels


def shape(path) -> tuple[int, int, int]:
  """Returns the (H, W, C) that `decode` gives, by the file's header alone.

  Raises:
    InputError: as `decode`, but for what is damaged behind the header.
  """
  with _opened(path) as image:
    height, width = image.height, image.width
    # Of a PNG without metadata Pillow would decode all to look for some.
    if image.format != 'PNG' or _METADATA & image.info.keys():
      if image.getexif().get(_ORIENTATION, 1) > 4:  # To be turned on its side.
        height, width = width, height
    return height, width, len(image.getbands())


@functools.cache
def _pillow():
  from PIL import Image
  # We look at sizes ourselves; a warning would stand before our line.
  warnings.simplefilter('ignore', Image.DecompressionBombWarning)
  return Image


@contextlib.contextmanager
def _opened(path, whole: bool = False):
  """Yields an image file, opened by Pillow; all that is wrong is one line.

  `whole`: its checksums are looked at, where it has some.
  """
  from PIL import UnidentifiedImageError
  Image = _pillow()
  try:
    if whole:  # Pillow decodes a PNG without a look at them.
      with Image.open(path, formats=_FORMATS) as image:
        if image.format == 'PNG':
          image.verify()
    with Image.open(path, formats=_FORMATS) as image:
      wrong = _refusal(image)
      if not wrong:
        yield image
  except UnidentifiedImageError:
    wrong = 'damaged, or not a PNG, JPEG, WebP or BMP image'
  except FileNotFoundError:
    wrong = 'there is no such file'
  except Exception as e:  # Pillow raises a dozen kinds for damaged files.
    first_line = (str(e) or type(e).__name__).splitlines()[0]
    wrong = f'cannot be decoded ({first_line})'
  if wrong:
    raise errors.InputError(
        f'{path}: {wrong}; expected an 8-bit grey or RGB image.')


def _refusal(image) -> str:
  """Says why an opened Pillow image cannot be used, or ''."""
  if 'transparency' in image.info and image.mode in ('L', 'RGB'):
    return 'an image with a transparent colour'
  if image.mode not in ('L', 'RGB'):
    return _REFUSED.get(image.mode, f'an image in mode {image.mode}')
  # Pillow would quietly cut 16-bit RGB down to 8 bits.
  if image.format == 'PNG' and image.tile and '16' in str(image.tile[0][3]):
    return 'a 16-bit image'
  # A phone's JPEG may carry a thumbnail or gain map as a second frame (MPO).
  if getattr(image, 'is_animated', False) and image.format != 'MPO':
    return 'an animated image'
  return ''


def pair(value, where: str) -> tuple[int, int]:
  """Reads a size given as an int (a square) or as (height, width)."""
  try:
    given = tuple(value) if np.ndim(value) else (value, value)
    size = tuple(int(v) for v in given)
    if len(size) == 2 and min(size) > 0 and size == given:
      return size
  except (TypeError, ValueError):
    pass
  raise errors.InputError(
      f'{where}: expected a positive number or (height, width), got '
      f'{value!r}.')


def fitted(size: tuple[int, int], resize=None, crop=None,
           where: str = 'an image') -> tuple[int, int]:
  """Returns the (height, width) that `fit` gives an image of this `size`."""
  if crop is not None:
    h, w = ((min(size),) * 2 if crop == 'square'
            else pair(crop, 'config.data.crop'))
    if h > size[0] or w > size[1]:
      raise errors.InputError(
          f'config.data.crop: {h}x{w} is larger than {where}, which is '
          f'{size[0]}x{size[1]} (height x width).')
    size = h, w
  return size if resize is None else pair(resize, 'config.data.resize')


def fit(image: np.ndarray, resize=None, crop=None, where: str = 'an image'):
  """Crops the centre of one image, then resizes what is left.

  Args:
    image: uint8 [H, W, C].
    resize: None, an int (exactly that high and wide: the aspect ratio is kept
      only if the image, or its crop, is square) or (height, width). Lanczos,
      antialiased.
    crop: None, an int (a square), (height, width), or 'square' for the largest
      centred square.
    where: the image's name for the error.

  Raises:
    InputError: the crop is larger than the image, or a size is not a size.
  """
  if crop is not None:
    height, width = image.shape[:2]
    h, w = fitted((height, width), None, crop, where)
    top, left = (height - h) // 2, (width - w) // 2
    image = image[top:top + h, left:left + w]
  size = fitted(image.shape[:2], resize)
  return image if size == image.shape[:2] else _resized(image, *size)


def to_pil(image: np.ndarray):
  """Turns uint8 [H, W, C] into a Pillow image: grey for C = 1, RGB for 3."""
  from PIL import Image
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  return Image.fromarray(np.ascontiguousarray(pixels))


def _resized(image, h, w):
  from PIL import Image
  resized = to_pil(image).resize((w, h), Image.Resampling.LANCZOS)
  return np.asarray(resized).reshape(h, w, -1)


def one_size(sizes: collections.Counter, where: str,
             mend: str = 'set config.data.resize, or config.data.crop'
             ) -> tuple[int, int]:
  """Returns the (height, width) that all images have; (0, 0) of none.

  Args:
    sizes: (height, width) -> how many images have it.
    where: the source's name for the error.
    mend: what gives the images one size, for the error.

  Raises:
    InputError: the images differ in size; lists the sizes with counts.
  """
  if len(sizes) > 1:
    listed = ', '.join(f'{h}x{w} ({n})' for (h, w), n in sizes.most_common(6))
    more = f' and {len(sizes) - 6} more sizes' if len(sizes) > 6 else ''
    raise errors.InputError(
        f'{where}: the images differ in size, height x width (how many): '
        f'{listed}{more}; {mend}.')
  return next(iter(sizes), (0, 0))


def check_size(count: int, shape: tuple[int, int, int], where: str):
  """Raises InputError where there is no memory for so many images.

  That is for them one by one, stacked, and once more in their splits.
  """
  height, width, channels = shape
  memory.check(where, 3 * count * height * width * channels,
               f'{count} images of {height}x{width}')


def fit_all(images, resize=None, crop=None,
            where: str = 'config.data') -> np.ndarray:
  """Stacks images, each through `fit`; grey ones among RGB become RGB.

  Args:
    images: uint8 [N, H, W] or [N, H, W, C], or any iterable of [H, W, C].
    resize, crop: as in `fit`.
    where: the source's name for the error.

  Returns:
    uint8 [N, H, W, C].

  Raises:
    InputError: the images differ in size; lists the sizes with counts.
  """
  if isinstance(images, np.ndarray):
    images = images[..., None] if images.ndim == 3 else images
    if resize is None and crop is None:
      return images
  sizes, kept = collections.Counter(), []
  if isinstance(images, np.ndarray):
    check_size(len(images), (*fitted(images.shape[1:3], resize, crop),
                             images.shape[3]), where)
  for i, image in enumerate(images):
    image = fit(image, resize, crop, f'image {i}')
    sizes[image.shape[:2]] += 1
    if len(sizes) == 1:  # A second size ends in an error: save the memory.
      kept.append(image)
  height, width = one_size(sizes, where)
  channels = max((image.shape[-1] for image in kept), default=1)
  stacked = np.empty((len(kept), height, width, channels), np.uint8)
  for row, image in zip(stacked, kept, strict=True):
    row[:] = image
  return stacked


def from_array(array: np.ndarray, where: str) -> np.ndarray:
  """Returns images of someone else's array as uint8 [N, H, W, C].

  Args:
    array: whole numbers or floats [N, H, W] or [N, H, W, C] with C 1 or 3;
      floats are in [0, 1] or [0, 255].
    where: the array's name for the error.

  Raises:
    InputError: another shape or type, values out of range, or no image.
  """
  if array.ndim == 3:
    array = array[..., None]
  if array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
    raise errors.InputError(
        f'{where}: shape {list(array.shape)}; expected [N, H, W] or '
        '[N, H, W, C] with C 1 or 3, and at least one image.')
  if array.dtype == np.uint8:
    return array
  if array.dtype.kind not in 'uif':
    raise errors.InputError(
        f'{where}: {array.dtype}; expected uint8, or floats in [0, 1].')
  low, high = array.min(), array.max()  # Either is NaN if a pixel is.
  if not (low >= 0 and high <= 255):
    found = ('NaN' if np.isnan(low) else f'values from {low} to {high}')
    raise errors.InputError(
        f'{where}: {found}; expected uint8, or floats in [0, 1] or [0, 255].')
  scale = 255 if array.dtype.kind == 'f' and high <= 1 else 1
  return np.rint(array * scale).astype(np.uint8)


def grid(images: np.ndarray, columns: int, pad: int = 2) -> np.ndarray:
  """Lays uint8 [N, H, W, C] out in rows of `columns`, on white.

  Returns:
    uint8 [rows * (H + pad) + pad, columns * (W + pad) + pad, C]; with a class
    to a row, image `row * columns + column` is the column-th of its class.
  """
  n, h, w, c = images.shape
  rows = math.ceil(n / columns)
  canvas = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, c), 255,
                   np.uint8)
  for i, image in enumerate(images):
    top, left = pad + i // columns * (h + pad), pad + i % columns * (w + pad)
    canvas[top:top + h, left:left + w] = image
  return canvas


def save_png(path, image: np.ndarray):
  """Writes uint8 [H, W, C] as PNG: grey for C = 1, RGB for C = 3."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  write_png(path, image)


def write_png(file, image: np.ndarray):
  """The same to an open binary file."""
  to_pil(image).save(file, format='PNG')


def digest(*arrays: np.ndarray) -> str:
  """Returns the sha256 of the arrays: types, shapes, values and order."""
  sha = hashlib.sha256()
  for array in arrays:
    array = np.ascontiguousarray(array)
    sha.update(f'{array.dtype.str}{array.shape}'.encode())
    sha.update(array.data)
  return sha.hexdigest()


def row_hashes(images: np.ndarray) -> np.ndarray:
  """Returns one hash for each image's exact pixels: bytes [N], sortable.

  Equal pixels give equal hashes only within one image shape.
  """
  width = math.prod(images.shape[1:])  # -1 would fail for no images.
  rows = np.ascontiguousarray(images).reshape(len(images), width)
  return np.array([hashlib.blake2b(row, digest_size=16).hexdigest()
                   for row in rows], 'S32')
