"""The pixels themselves, made few: what any other features should beat."""
from jaxaug.core import errors, types
from jaxaug.nn import resize


def build(*, side: int = 32) -> types.Extractor:
  """Returns the pixels, in [0, 1] and in a row.

  Args:
    side: larger images are resized, antialiased, until no side has more pixels;
      the ratio of the sides stays, to a pixel.
  """
  errors.count('side', side)

  def apply(variables, images):
    del variables
    sides = images.shape[1:3]
    shrink = max(*sides, side)
    size = tuple(max(round(n * side / shrink), 1) for n in sides)
    x = resize.resize(images, size, 'bilinear_aa') / 255
    return {'features': x.reshape(len(images), -1)}

  return types.Extractor(
      'pixels', apply, {}, channels=0,
      protocol=f'of 0 to 1, antialiased bilinear to at most {side} a side')
