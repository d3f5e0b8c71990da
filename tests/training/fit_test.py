"""What names a network in a cache of programs."""
from jaxaug.training import fit


def test_pairs_are_hashable_whatever_lists_they_hold():
  one = fit.pairs({'b': [[8, 1], [4, 2]], 'a': 1})
  assert one == (('a', 1), ('b', ((8, 1), (4, 2))))
  assert hash(one) == hash(fit.pairs({'a': 1, 'b': ((8, 1), (4, 2))}))
  assert fit.pairs({}) == ()
