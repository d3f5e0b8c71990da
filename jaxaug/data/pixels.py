"""Pixels as a network has them, and as they lie on the disk."""
import jax
import jax.numpy as jnp
import numpy as np


def to_float(images: jax.Array) -> jax.Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images) -> np.ndarray:
  """Turns floats in [-1, 1] into the nearest uint8; clips what lies outside."""
  scaled = (np.asarray(images, np.float32) + 1) * 127.5
  with np.errstate(invalid='ignore'):  # Of a generator that has diverged.
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
