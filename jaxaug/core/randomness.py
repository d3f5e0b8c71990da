"""Randomness on the host: a generator of its own for everything with a key."""
import numpy as np


def generator(*key: int) -> np.random.Generator:
  """Returns Philox seeded by whole numbers; other keys, other streams."""
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
