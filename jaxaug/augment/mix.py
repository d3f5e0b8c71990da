"""MixUp and CutMix: each image and its target with those of another.

MixUp is Zhang et al. 2018, 'mixup: Beyond Empirical Risk Minimization'; CutMix
is Yun et al. 2019, 'CutMix: Regularization Strategy to Train Strong
Classifiers'.
"""
import jax
import jax.numpy as jnp

from jaxaug.augment import warp
from jaxaug.core import errors


def _mixup(key, share, images, targets, others, other_targets):
  """share [B] of each image, and the rest of the other; of targets too."""
  del key
  def blend(a, b):
    s = share.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1))
    return s * a + (1 - s) * b
  return blend(images, others), blend(targets, other_targets)


def _cutmix(key, share, images, targets, others, other_targets):
  """A box of 1 - share from the other; targets by the pixels that are in it."""
  size = [jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32)
          for side in images.shape[1:3]]
  box = warp.box(images, *jax.random.uniform(key, (2, len(images))), size)
  taken = box.mean((1, 2, 3), dtype=targets.dtype)[:, None]
  return (jnp.where(box, others, images),
          (1 - taken) * targets + taken * other_targets)


KINDS = {'mixup': _mixup, 'cutmix': _cutmix}


def make(kind: str = '', alpha: float = 1.0, *, where: str = 'arm'):
  """Returns MixUp or CutMix: each image and its target with those of another.

  The share that an image keeps is drawn from Beta(alpha, alpha), for each by
  itself. CutMix replaces a box of the other share, its centre anywhere, and
  what of the box lies outside the image counts for nothing: the target follows
  the exact number of pixels.

  Args:
    kind: 'mixup', 'cutmix', or '' or 'none' for the identity.
    alpha: above 0; small means mostly one of the two, 1 any share alike.
    where: the config path of `mix` and `mix_alpha`, for errors.

  Returns:
    apply(key, images [B, H, W, C], targets [B, K], other_images,
    other_targets) -> (images, targets), of the same shapes and types.

  Raises:
    InputError: an unknown kind, or an alpha that is not above 0.
  """
  errors.one_of(f'{where}.mix', kind, ('', 'none', *KINDS))
  if kind not in KINDS:
    return lambda key, images, targets, others, other_targets: (images, targets)
  errors.positive(f'{where}.mix_alpha', alpha)

  def apply(key, images, targets, other_images, other_targets):
    key_share, key_box = jax.random.split(key)
    share = jax.random.beta(key_share, alpha, alpha, (len(images),))
    return KINDS[kind](key_box, share, images, targets, other_images,
                        other_targets)
  return apply
