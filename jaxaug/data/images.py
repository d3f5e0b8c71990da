"""Image files and uint8 arrays: decode, fit to one size, save, hash."""
import collections
import contextlib
import functools
import hashlib
import io
import math
import os
import typing

import numpy as np

from jaxaug.core import errors, memory

# Of the files that are taken for images in a folder.
ENDINGS = ('.png', '.jpg', '.jpeg', '.jfif', '.webp', '.bmp', '.gif', '.tif',
           '.tiff', '.ppm', '.pgm')
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
LARGEST = 100_000_000  # Pixels; more is a mistake, or an attack.
_ORIENTATION = 0x112   # Its number in EXIF.
# What Pillow calls the parts of a header in which that may stand.
_METADATA = {'exif', 'Raw profile type exif', 'xmp', 'XML:com.adobe.xmp'}
# Pillow's modes that become grey or RGB as they are, and what they are called.
_MODES = {'L': 'grey', 'RGB': 'RGB', '1': '1-bit', 'P': 'palette',
          'CMYK': 'CMYK', 'YCbCr': 'YCbCr'}
# And those that a word of the user decides about.
_ALPHA = ('LA', 'RGBA', 'PA', 'La', 'RGBa')
_DEEP = ('I;16', 'I;16L', 'I;16B', 'I;16N')
ALPHAS = {'refuse': None, 'white': 255, 'black': 0, 'drop': None}
DEPTHS = ('refuse', 'scale')


class Look(typing.NamedTuple):
  """What the header of an image file says.

  height, width, channels: as `decode` gives it.
  mode: what it is, in words, such as 'RGB' or 'palette'.
  wrong: why `decode` refuses it, such as 'an image with transparent parts', or
  ''. option: what a user can say to have it taken all the same, or ''.
  """
  height: int
  width: int
  channels: int
  mode: str
  wrong: str = ''
  option: str = ''


class _Wrong(Exception):
  """Why a file is not taken, and the option that would change that, or ''."""


def refusal(name, wrong: str, option: str) -> errors.InputError:
  """Says why a file is not taken; see Look."""
  more = f', or {option}' if option else ''
  return errors.InputError(
      f'{name}: {wrong}; expected an 8-bit grey or RGB image{more}.')


def decode(file, alpha: str = 'refuse', depth: str = 'refuse',
           name: str = '') -> np.ndarray:
  """Reads one image file completely, of any of ENDINGS.

  A photo's EXIF orientation is applied, so that up is up. Of an animated GIF it
  is the first picture.

  Args:
    file: a path, or the file's bytes.
    alpha: what becomes of a transparent image: 'refuse'; 'white' or 'black'
      behind it; 'drop', its colours as they stand there.
    depth: of one of 16 bits a channel: 'refuse'; 'scale', their higher 8 bits.
    name: of bytes, for errors.

  Returns:
    uint8 [H, W, C]: C is 1 for what is grey, else 3.

  Raises:
    InputError: the file is missing, damaged, larger than 100 megapixels, or of
      another kind (transparent or 16-bit without a word of that, 32-bit,
      animated but no GIF).
  """
  from PIL import ImageOps
  try:
    with _opened(file, alpha, depth, whole=True) as image:
      target = _target(image)
      image = ImageOps.exif_transpose(image)
      if image.mode in _DEEP or image.mode == 'I':
        return (np.array(image) >> 8).astype(np.uint8)[..., None]
      if _transparent(image):
        image = _opaque(image, ALPHAS[alpha])
      pixels = np.array(image if image.mode == target else image.convert(
          target))
  except _Wrong as e:
    raise refusal(name or file, *e.args) from None
  return pixels[..., None] if pixels.ndim == 2 else pixels


def look(file, alpha: str = 'refuse', depth: str = 'refuse') -> Look:
  """Returns what `decode` gives, or why it refuses, by the header alone.

  What is damaged behind the header is not seen.
  """
  try:
    with _opened(file, alpha, depth) as image:
      height, width = image.height, image.width
      # Of a PNG without metadata Pillow would decode all to look for some; a
      # TIFF it has turned already.
      if image.format != 'TIFF' and (
          image.format != 'PNG' or _METADATA & image.info.keys()):
        if image.getexif().get(_ORIENTATION, 1) > 4:  # Turned on its side.
          height, width = width, height
      mode = ('16-bit' if _deep(image) else 'transparent'
              if _transparent(image) else _MODES[image.mode])
      if getattr(image, 'is_animated', False) and image.format == 'GIF':
        mode = 'animated GIF, its first picture'
      return Look(height, width, {'L': 1, 'RGB': 3}[_target(image)], mode)
  except _Wrong as e:
    return Look(0, 0, 1, '', *e.args)


@functools.cache
def _pillow():
  from PIL import Image
  Image.MAX_IMAGE_PIXELS = None  # We look at sizes ourselves, and say a line.
  return Image


@contextlib.contextmanager
def _opened(file, alpha: str, depth: str, whole: bool = False):
  """Yields an image file, opened by Pillow; all that is wrong is a _Wrong.

  `whole`: its checksums are looked at, where it has some.
  """
  from PIL import UnidentifiedImageError
  Image, option = _pillow(), ''
  def source():
    return io.BytesIO(file) if isinstance(file, bytes) else file
  try:
    if whole:  # Pillow decodes a PNG without a look at them.
      with Image.open(source(), formats=_FORMATS) as image:
        if image.format == 'PNG' and image.width * image.height <= LARGEST:
          image.verify()
    with Image.open(source(), formats=_FORMATS) as image:
      wrong, option = _refusal(image, alpha, depth)
      if not wrong:
        yield image
  except UnidentifiedImageError:
    known = ', '.join(_FORMATS[:-1])
    wrong = f'damaged, or none of {known} and {_FORMATS[-1]}'
  except FileNotFoundError:
    wrong = 'there is no such file'
  except Exception as e:  # Pillow raises a dozen kinds for damaged files.
    first_line = (str(e) or type(e).__name__).splitlines()[0]
    wrong = f'cannot be decoded ({first_line})'
  if wrong:
    raise _Wrong(wrong, option)


def _refusal(image, alpha: str, depth: str) -> tuple[str, str]:
  """Says why an opened Pillow image is not taken, or '', and which option."""
  if image.width * image.height > LARGEST:
    return (f'an image of {image.height}x{image.width} pixels, above '
            f'{LARGEST // 10**6} megapixels'), ''
  if _deep(image) and depth == 'refuse':
    return 'an image of 16 bits a channel', "config.data.depth='scale'"
  if _transparent(image) and alpha == 'refuse':
    return ('an image with transparent parts',
            "config.data.alpha='white', 'black' or 'drop'")
  if not (image.mode in _MODES or _transparent(image) or _deep(image)):
    return {'I': 'a 32-bit image', 'F': 'a 32-bit image'}.get(
        image.mode, f'an image in mode {image.mode}'), ''
  # A phone's JPEG may carry a thumbnail or gain map as a second frame (MPO).
  if getattr(image, 'is_animated', False) and image.format not in (
      'MPO', 'GIF'):
    return 'an animated image, or one of several pages', ''
  return '', ''


def _deep(image) -> bool:
  """Whether an opened image has 16 bits a channel."""
  if image.mode in _DEEP or image.format == 'PPM' and image.mode == 'I':
    return True
  # Of RGB Pillow quietly takes the higher 8; how it is stored, its tile says.
  if image.format not in ('PNG', 'TIFF', 'PPM') or not image.tile:
    return False
  how = image.tile[0][3]
  if image.format == 'PPM':  # Of more than 8 bits, how white the lightest is.
    return isinstance(how, tuple) and how[-1] > 255
  return '16' in str(how[0] if isinstance(how, tuple) else how)


def _transparent(image) -> bool:
  return image.mode in _ALPHA or 'transparency' in image.info


def _target(image) -> str:
  """Returns 'L' for what is grey, else 'RGB'."""
  if image.mode == 'P':
    palette = np.array(image.getpalette('RGB')).reshape(-1, 3)
    return 'L' if (palette == palette[:, :1]).all() else 'RGB'
  grey = image.mode in ('L', 'LA', 'La', '1', 'I') or image.mode in _DEEP
  return 'L' if grey else 'RGB'


def _opaque(image, behind: int | None):
  """Returns an image without its transparency: on a grey, or as it stands."""
  Image, image = _pillow(), image.convert('RGBA')
  if behind is None:
    return image.convert('RGB')
  ground = Image.new('RGBA', image.size, (behind,) * 3 + (255,))
  return Image.alpha_composite(ground, image).convert('RGB')


def pair(value, where: str) -> tuple[int, int]:
  """Reads a size given as an int (a square) or as (height, width)."""
  try:
    given = tuple(value) if np.ndim(value) else (value, value)
    size = tuple(int(v) for v in given)
    if len(size) == 2 and min(size) > 0 and size == given and not any(
        isinstance(v, bool) for v in given):
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


def take(some, rows):
  """Returns the rows of an array, or of what looks like one, without a look at
  them."""
  return some[rows] if isinstance(some, np.ndarray) else some.take(rows)


def blocks(some, size: int = 1024):
  """Yields the rows of an array, or of what looks like one, in parts."""
  for start in range(0, len(some), size):
    yield some[start:start + size]


def digest(*arrays: np.ndarray) -> str:
  """Returns the sha256 of the arrays: types, shapes, values and order."""
  sha = hashlib.sha256()
  for array in arrays:
    sha.update(f'{array.dtype.str}{array.shape}'.encode())
    for part in blocks(array):
      sha.update(np.ascontiguousarray(part).data)
  return sha.hexdigest()


def row_hashes(images: np.ndarray) -> np.ndarray:
  """Returns one hash for each image's exact pixels: bytes [N], sortable.

  Equal pixels give equal hashes only within one image shape.
  """
  return np.array([
      hashlib.blake2b(row, digest_size=16).hexdigest()
      for part in blocks(images) for row in np.ascontiguousarray(part)], 'S32')
