"""Every metric of image sets against its reference package or a plain loop."""
import functools
import inspect
import itertools
import math

import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import moments, neighbours

sk = pytest.importorskip('sklearn.metrics')

NAMES = registry.names('image_metrics')


def image_set(n, seed, *, d=12, classes=3, shift=0., scale=1., side=32):
  """Labelled features in clusters, logits that know them, smooth images."""
  rng = np.random.default_rng(seed)
  labels = np.int32(np.arange(n) % classes)
  centres = 2 * np.random.default_rng(99).normal(size=(classes, d))
  features = np.float32(centres[labels] + scale * rng.normal(size=(n, d))
                        + shift)
  logits = np.float32(3 * np.eye(classes + 2)[labels]
                      + rng.normal(size=(n, classes + 2)))
  coarse = rng.normal(size=(n, side // 4, side // 4, 3)) * 40
  coarse += 12 * np.random.default_rng(98).normal(
      size=(classes, *coarse.shape[1:]))[labels]
  pixels = 128 + coarse.repeat(4, 1).repeat(4, 2) + rng.normal(
      size=(n, side, side, 3)) * 10
  return types.ImageSet(n, moments.of(features), features, logits, labels,
                        np.clip(pixels, 0, 255).astype(np.uint8))


REAL, FAKE = image_set(230, 0), image_set(260, 1, shift=.1, scale=.8)


def take(side, rows):
  """The same set of some rows, or of the same rows in another order."""
  side = types.ImageSet(len(rows), *(x if x is None or isinstance(
      x, types.Moments) else x[rows] for x in side[1:]))
  return side._replace(moments=moments.of(side.features))


def fit(images, labels, seed):
  """Nearest class mean of the pixels, of a part that the seed draws."""
  chosen = np.random.default_rng(seed).random(len(images)) < .7
  flat = images[chosen].reshape(chosen.sum(), -1).astype(float)
  known = np.unique(labels)
  means = np.stack([flat[labels[chosen] == c].mean(0) for c in known])
  def predict(images):
    apart = sk.pairwise_distances(
        images.reshape(len(images), -1).astype(float), means)
    return np.eye(known.max() + 1)[known[apart.argmin(1)]]
  return predict


def compute(name, real=REAL, fake=FAKE, **knobs):
  block = registry.find('image_metrics', name)
  if 'fit' in block.NEEDS:
    knobs.setdefault('fit', fit)
  return block.compute(real, fake, **knobs)


def values(name, *args, **knobs):
  return {k: v.value for k, v in compute(name, *args, **knobs).items()}


# References: {name: value or (value, std)}.

def fid(real, fake):
  fid_score = pytest.importorskip('pytorch_fid.fid_score')
  return {'fid': fid_score.calculate_frechet_distance(*(
      f(x) for x in (np.float64(real.features), np.float64(fake.features))
      for f in (lambda x: x.mean(0), lambda x: np.cov(x, rowvar=False))))}


def each_class(real, fake):
  return [(np.float64(real.features[real.labels == c]),
           np.float64(fake.features[fake.labels == c]))
          for c in sorted({*real.labels, *fake.labels})]


def intra_fd(real, fake):
  fid_score = pytest.importorskip('pytorch_fid.fid_score')
  each = [fid_score.calculate_frechet_distance(
      x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
          for x, y in each_class(real, fake)]
  return {'intra_fd': (np.mean(each), np.std(each))}


def kid(real, fake, **given):
  metric = pytest.importorskip('torch_fidelity.metric_kid')
  got = metric.kid_features_to_metric(
      *(_tensor(s.features) for s in (fake, real)), verbose=False,
      **{'kid_subset_size': min(len(real.features), len(fake.features))}
      | given)
  return {'kid': (got[metric.KEY_METRIC_KID_MEAN],
                  got[metric.KEY_METRIC_KID_STD])}


def inception_score(real, fake, **given):
  metric = pytest.importorskip('torch_fidelity.metric_isc')
  got = metric.isc_features_to_metric(_tensor(fake.logits), **given)
  return {'is': (got[metric.KEY_METRIC_ISC_MEAN],
                 got[metric.KEY_METRIC_ISC_STD])}


def _tensor(x):
  import torch
  return torch.tensor(np.float64(x))


def prdc(real, fake, k=5):
  theirs = pytest.importorskip('prdc')
  return theirs.compute_prdc(np.float64(real.features),
                             np.float64(fake.features), k)


def improved_pr(real, fake, k=3):
  metric = pytest.importorskip('torch_fidelity.metric_prc')
  got = metric.prc_features_to_metric(
      _tensor(fake.features), _tensor(real.features), prc_neighborhood=k,
      verbose=False)
  return {'improved_precision': got['precision'],
          'improved_recall': got['recall']}


def authenticity(real, fake):
  authentic = []
  for g in np.float64(fake.features):
    to_real = [math.dist(g, r) for r in real.features]
    nearest = to_real.index(min(to_real))
    others = [math.dist(real.features[nearest], r)
              for i, r in enumerate(real.features) if i != nearest]
    authentic.append(min(to_real) >= min(others))
  return {'authenticity': np.mean(authentic)}


def copying(real, fake, name='copying', quantile=.01):
  real, fake = (s.features.tolist() for s in (real, fake))
  own = [min(math.dist(r, x) for j, x in enumerate(real) if i != j)
         for i, r in enumerate(real)]
  other = [min(math.dist(g, r) for r in real) for g in fake]
  limit = np.quantile(own, quantile)
  return {name: np.mean([d <= limit for d in other]),
          f'{name}_ratio': np.median(other) / np.median(own)}


def pixel_copying(real, fake, side=16, quantile=.01):
  def cells(images):
    torch = pytest.importorskip('torch')
    return torch.nn.functional.adaptive_avg_pool2d(
        _tensor(images).permute(0, 3, 1, 2), side).flatten(1).numpy()
  return copying(*(s._replace(features=cells(s.images))
                   for s in (real, fake)), 'pixel_copying', quantile)


def diversity(real, fake):
  def mean(x):
    return np.mean([math.dist(a, b) for a, b in itertools.combinations(x, 2)])
  each = [mean(y) / mean(x) for x, y in each_class(real, fake)]
  return {'diversity': (np.mean(each), np.std(each))}


def ms_ssim(real, fake, pairs=100):
  tf = pytest.importorskip('tensorflow')
  weights = np.array([.0448, .2856])
  out = {}
  for name, side in (('ms_ssim', fake), ('ms_ssim_real', real)):
    each = []
    for c in sorted(set(side.labels.tolist())):
      images = side.images[side.labels == c]
      # The same draw: which pairs is no property of the measure.
      random = np.random.Generator(np.random.Philox(0))
      a = random.integers(len(images), size=pairs)
      b = (a + random.integers(1, len(images), size=pairs)) % len(images)
      assert (a != b).all()
      each.append(np.mean(tf.image.ssim_multiscale(
          images[a], images[b], 255, weights / weights.sum())))
    out[name] = np.mean(each), np.std(each)
  return out


def cas(real, fake, runs=3):
  out = {}
  for name, train, test in (('fake_to_real', fake, real),
                            ('real_to_fake', real, fake)):
    each = [sk.accuracy_score(test.labels, fit(
        train.images, train.labels, seed)(test.images).argmax(-1))
            for seed in range(runs)]
    out['cas_' + name] = np.mean(each), np.std(each, ddof=1)
  return out


# Reference, relative and absolute tolerance.
WANT = {
    'authenticity': (authenticity, 1e-12, 0), 'cas': (cas, 1e-12, 0),
    'copying': (copying, 1e-12, 0), 'diversity': (diversity, 1e-9, 0),
    'fid': (fid, 1e-9, 0), 'improved_pr': (improved_pr, 1e-6, 0),
    'intra_fd': (intra_fd, 1e-9, 0), 'is': (inception_score, 1e-12, 0),
    'kid': (functools.partial(kid, kid_subsets=100), 1e-9, 1e-12),
    'ms_ssim': (ms_ssim, 1e-5, 1e-6),
    'pixel_copying': (pixel_copying, 1e-6, 0), 'prdc': (prdc, 1e-12, 0)}
ignore_scipy = pytest.mark.filterwarnings('ignore:The `disp` argument')


def check(got, want, rtol, atol):
  assert got.keys() == want.keys()
  for key, (value, *std) in ((k, np.atleast_1d(v)) for k, v in want.items()):
    np.testing.assert_allclose(got[key].value, value, rtol=rtol, atol=atol,
                               err_msg=key)
    assert (got[key].std is None) == (not std) or std == [0]
    if std and got[key].std is not None:
      np.testing.assert_allclose(got[key].std, std[0], rtol=max(rtol, 1e-9),
                                 atol=max(atol, 1e-9), err_msg=key)


def test_references_are_of_metrics_that_there_are():
  assert WANT.keys() <= {*NAMES}


@ignore_scipy
@pytest.mark.parametrize('name', WANT)
def test_metric_is_that_of_its_reference(name, torchvision):
  reference, rtol, atol = WANT[name]
  got = compute(name)
  check(got, reference(REAL, FAKE), rtol, atol)
  for measured in got.values():  # Nothing at an end, where all would agree.
    assert isinstance(measured.value, float)
    assert 0 < abs(measured.value) and measured.value != 1, name


@ignore_scipy
@pytest.mark.parametrize('name, ours, reference', [
    ('kid', {'subsets': 7, 'subset_size': 50},
     lambda *s: kid(*s, kid_subsets=7, kid_subset_size=50)),
    ('kid', {'subsets': 3, 'subset_size': 20, 'seed': 5},
     lambda *s: kid(*s, kid_subsets=3, kid_subset_size=20, rng_seed=5)),
    ('is', {'splits': 3, 'seed': 1},
     lambda *s: inception_score(*s, splits=3, rng_seed=1)),
    ('prdc', {'k': 1}, functools.partial(prdc, k=1)),
    ('prdc', {'k': 40}, functools.partial(prdc, k=40)),
    ('improved_pr', {'k': 7}, functools.partial(improved_pr, k=7)),
    ('copying', {'quantile': .3}, functools.partial(copying, quantile=.3)),
    ('pixel_copying', {'side': 8, 'quantile': .5},
     functools.partial(pixel_copying, side=8, quantile=.5)),
    ('ms_ssim', {'pairs': 9}, functools.partial(ms_ssim, pairs=9)),
    ('cas', {'runs': 2}, functools.partial(cas, runs=2))],
                         ids=lambda x: 'theirs' if callable(x) else str(x))
def test_knobs_are_those_of_the_reference(name, ours, reference, torchvision):
  check(compute(name, **ours), reference(REAL, FAKE), *WANT[name][1:])


@pytest.mark.parametrize('name', NAMES)
def test_file_keeps_the_contract(name):
  block = registry.find('image_metrics', name)
  assert block.compute.__doc__  # The header: see measure_test.
  parameters = inspect.signature(block.compute).parameters.values()
  for p in parameters:
    if p.kind is p.KEYWORD_ONLY:
      assert f'\n  {p.name}: ' in inspect.getdoc(block.compute)
      assert p.name == 'fit' or p.default is not p.empty
  needs = set(block.NEEDS)
  # Nothing is read that was not asked for.
  got = compute(name, *(types.ImageSet(s.count, **{
      k: v for k, v in s._asdict().items() if k in needs})
                        for s in (REAL, FAKE)))
  assert got.keys() == block.VALUES.keys()
  for m in got.values():
    assert isinstance(m, types.Measured)
    assert (m.n is None) == (m.std is None) == (not m.over)


@pytest.mark.parametrize('name', sorted({*NAMES} - {'is', 'kid', 'ms_ssim'}))
def test_order_changes_nothing(name):
  rng = np.random.default_rng(5)
  knobs = {'fit': lambda x, y, seed: fit(x[np.argsort(x[:, 0, 0, 0])],
                                         y[np.argsort(x[:, 0, 0, 0])], 0)
           } if name == 'cas' else {}
  turned = [take(s, rng.permutation(s.count)) for s in (REAL, FAKE)]
  want = values(name, **knobs)
  got = values(name, *turned, **knobs)
  for key in want if name != 'cas' else ():
    np.testing.assert_allclose(got[key], want[key], rtol=1e-9)


KNOBS = [('kid', 'subsets', 0), ('kid', 'subset_size', 1), ('kid', 'seed', -1),
         ('kid', 'subsets', 2.5), ('is', 'splits', 0), ('is', 'seed', 'a'),
         ('prdc', 'k', 0), ('improved_pr', 'k', -1),
         ('copying', 'quantile', 1.1), ('copying', 'quantile', math.nan),
         ('pixel_copying', 'side', 0), ('pixel_copying', 'quantile', -.1),
         ('ms_ssim', 'pairs', 0), ('ms_ssim', 'seed', -2), ('cas', 'runs', 0)]


@pytest.mark.parametrize('name, knob, value', KNOBS)
def test_senseless_knobs(name, knob, value):
  refused(rf'{name}\.{knob}: {value!r}; expected', name, **{knob: value})


def test_every_knob_of_a_metric_among_them_is_too():
  named = {name for name, *_ in KNOBS}
  assert {(name, knob) for name, knob, _ in KNOBS} == {
      (name, knob) for name in named for knob in registry.arguments(
          registry.find('image_metrics', name).compute)} - {('cas', 'fit')}


def refused(said, name, *args, **knobs):
  with pytest.raises(errors.InputError, match=said) as e:
    compute(name, *args, **knobs)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('name', NAMES)
def test_not_a_number(name, bad):
  needs = set(registry.find('image_metrics', name).NEEDS)
  for field in needs & {'features', 'logits', 'moments'}:
    for real, fake in ((0, 1), (1, 0)):
      if field == 'logits' and real:
        continue
      sides = [_broken(s, field, bad) if wrong else s
               for s, wrong in ((REAL, real), (FAKE, fake))]
      refused(f'^{name}: .*NaN or infinite', name, *sides)


def _broken(side, field, bad):
  if field == 'moments':
    mean = side.moments.mean.copy()
    mean[3] = bad
    return side._replace(moments=side.moments._replace(mean=mean))
  array = getattr(side, field).copy()
  array[17, 3] = bad
  return side._replace(**{field: array})


@pytest.mark.parametrize('name', NAMES)
def test_absent_or_unfit(name):
  needs = set(registry.find('image_metrics', name).NEEDS)
  for field in needs - {'fit'}:
    if (name, field) not in (('diversity', 'labels'), ('ms_ssim', 'labels')):
      refused(f'^{name}: ', name, REAL, FAKE._replace(**{field: None}))
  if 'features' in needs:
    refused(f'^{name}: 12 features .* 7 of a gen', name, REAL,
            FAKE._replace(features=FAKE.features[:, :7]))
    refused(rf'^{name}: .*\[230\]; exp', name,
            REAL._replace(features=REAL.features[:, 0]))
  if 'moments' in needs:
    refused(f'^{name}: .*12 features beside 5', name, REAL,
            FAKE._replace(moments=moments.of(FAKE.features[:, :5])))
  if 'images' in needs:
    refused(rf'^{name}: .*\[32, 32, 3\] and .*\[32, 30, 3\]', name, REAL,
            FAKE._replace(images=FAKE.images[:, :, 1:31]))
    refused(f'^{name}: .*float32', name,
            REAL._replace(images=REAL.images.astype('f4')))
  if 'labels' in needs:
    refused(rf'^{name}: .*\[3\]; expected one for each of 260', name, REAL,
            FAKE._replace(labels=FAKE.labels[:3]))


@pytest.mark.parametrize('name, n, knobs', [
    ('kid', 1, {}), ('is', 9, {}), ('is', 2, {'splits': 3}), ('prdc', 5, {}),
    ('prdc', 1, {'k': 1}), ('improved_pr', 3, {}), ('authenticity', 1, {}),
    ('copying', 1, {}), ('pixel_copying', 1, {}), ('intra_fd', 1, {}),
    ('diversity', 1, {}), ('ms_ssim', 1, {}), ('cas', 0, {})])
def test_too_few_images(name, n, knobs):
  def few(side, n):
    return side._replace(**{k: getattr(side, k)[:n] for k in (
        'features', 'logits', 'labels', 'images')})
  both = (REAL, few(FAKE, n)), (few(REAL, n), FAKE)
  for sides in both[:1] if name == 'is' else both:
    refused(f'^{name}: .*(at least|for each)', name, *sides, **knobs)
  if name not in ('intra_fd', 'cas'):  # One more is enough.
    one = [few(s, n + 1)._replace(labels=None) for s in (REAL, FAKE)]
    assert all(map(math.isfinite, values(name, *one, **knobs).values()))


@pytest.mark.parametrize('name', ['intra_fd', 'diversity', 'ms_ssim'])
def test_a_class_that_one_side_lacks(name):
  for count in 0, 1:
    few = np.concatenate((np.flatnonzero(FAKE.labels != 2),
                          np.flatnonzero(FAKE.labels == 2)[:count]))
    refused(f'^{name}: class 2 has {count} generated images; expected at least '
            '2', name, REAL, take(FAKE, few))
    refused(f'^{name}: class 2 has {count} real', name, take(FAKE, few), REAL)


SAME = {'fid': 0, 'intra_fd': 0, 'precision': 1, 'recall': 1, 'coverage': 1,
        'improved_precision': 1, 'improved_recall': 1, 'authenticity': 0,
        'copying': 1, 'copying_ratio': 0, 'pixel_copying': 1,
        'pixel_copying_ratio': 0, 'diversity': 1}


@pytest.mark.parametrize('name', NAMES)
def test_identical_sets(name):
  got = values(name, REAL, REAL)
  for key in got.keys() & SAME.keys():
    np.testing.assert_allclose(got[key], SAME[key], atol=1e-10, err_msg=key)
  if name == 'kid':  # Unbiased for independent sets, these have pairs.
    kernel = (REAL.features @ REAL.features.T / 12 + 1.)**3
    own, n = np.trace(kernel), len(kernel)
    others = (kernel.sum() - own) / (n * (n - 1))
    np.testing.assert_allclose(got['kid'], -2 / n * (own / n - others),
                               rtol=1e-4)
  if name == 'prdc':  # Each image is in its neighbours' balls, and in its own.
    assert 1 - .05 < got['density'] < 1 + .05
  if name == 'ms_ssim':
    assert got['ms_ssim'] == got['ms_ssim_real']


@pytest.mark.parametrize('name', NAMES)
def test_images_all_the_same(name):
  def same(side, value):
    features = np.full_like(side.features, value)
    return side._replace(
        features=features, moments=moments.of(features),
        logits=np.full_like(side.logits, value),
        images=np.full_like(side.images, 10 * value))
  real, fake = same(REAL, 1), same(FAKE, 2)
  cas = {'fit': lambda x, y, seed: lambda x: np.zeros(len(x), np.int32)
         } if name == 'cas' else {}
  if name in ('copying', 'pixel_copying', 'diversity'):
    refused(f'^{name}: .*expected different images', name, real, fake)
    got = values(name, REAL, fake)
  else:
    got = values(name, real, fake, **cas)
  assert all(map(math.isfinite, got.values()))
  want = {'fid': 12, 'intra_fd': 12, 'is': 1, 'ms_ssim': 1, 'ms_ssim_real': 1,
          'precision': 0, 'recall': 0, 'density': 0, 'coverage': 0,
          'improved_precision': 0, 'improved_recall': 0, 'authenticity': 1,
          'diversity': 0, 'kid': 2**3 + 5**3 - 2 * 3**3, 'copying': 0,
          'pixel_copying': 0}
  for key in got.keys() & want.keys():
    np.testing.assert_allclose(got[key], want[key], rtol=1e-9, atol=1e-12,
                               err_msg=key)


def test_precision_and_coverage_with_duplicates():
  """Fewer equal images than k: no radius is 0, and prdc knows them all."""
  rng = np.random.default_rng(3)
  real, fake = (take(s, rng.integers(0, 120, 200)) for s in (REAL, FAKE))
  assert np.unique(real.features, axis=0, return_counts=True)[1].max() < 9
  check(compute('prdc', real, fake, k=9), prdc(real, fake, k=9), 1e-12, 0)
  # Copies among the generated: the centre of a ball is in it.
  copied = take(real, np.arange(0, 200, 2))
  assert values('prdc', real, copied, k=9)['precision'] == 1
  assert values('authenticity', REAL, take(REAL, np.arange(50)))[
      'authenticity'] == 0


def test_kid_by_subsets_and_all_at_once(monkeypatch, torchvision):
  """Which way is shorter depends on the numbers; the result does not."""
  given = {'subsets': 4, 'subset_size': 100}
  block = registry.find('image_metrics', 'kid')
  calls, exact = [], block._discrepancy
  def spy(x, of_x, y, of_y):
    calls.append(of_x.shape)
    return exact(x, of_x, y, of_y)
  monkeypatch.setattr(block, '_discrepancy', spy)
  monkeypatch.setattr(block, '_ROWS', 64)  # The last rows are filled up.
  few = compute('kid', **given)
  many = compute('kid', **given | {'subsets': 30})
  assert calls == [(100, 1)] * 4 + [(230, 30)]
  for got, n in ((few, 4), (many, 30)):
    check(got, kid(REAL, FAKE, kid_subsets=n, kid_subset_size=100), 1e-9, 1e-12)
  assert many['kid'].over == 'subsets of 100' and many['kid'].n == 30


def test_kid_of_float32_is_that_of_torch_fidelity_in_float32(torchvision):
  metric = pytest.importorskip('torch_fidelity.metric_kid')
  import torch
  real, fake = (image_set(300, i, d=256) for i in range(2))
  want = metric.kid_features_to_metric(
      *(torch.tensor(s.features) for s in (fake, real)), verbose=False,
      kid_subsets=5, kid_subset_size=200)
  got = compute('kid', real, fake, subsets=5, subset_size=200)['kid']
  scale = ((real.features**2).sum(1).mean() / 256 + 1)**3
  assert abs(got.value - want[metric.KEY_METRIC_KID_MEAN]) < 1e-6 * scale
  assert abs(got.std - want[metric.KEY_METRIC_KID_STD]) < 1e-6 * scale


def test_expectations_of_equal_distributions():
  """Naeem et al. 2020, section 3: coverage and density in theory."""
  n, k = 3000, 5
  rng = np.random.default_rng(0)
  real, fake = (types.ImageSet(n, features=np.float32(rng.normal(size=(n, 16))))
                for _ in range(2))
  got = values('prdc', real, fake, k=k)
  covered = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
  assert abs(got['coverage'] - covered) < .01
  assert abs(got['density'] - 1) < .03
  # Nearest of n real ones, or of n - 1 others: the same distribution.
  copied = values('copying', real, fake, quantile=.05)
  assert abs(copied['copying'] - .05) < .02
  assert abs(copied['copying_ratio'] - 1) < .02
  assert abs(values('diversity', real, fake)['diversity'] - 1) < .01
  kernel = compute('kid', real, fake, subset_size=300)['kid']
  assert abs(kernel.value) < 3 * kernel.std / 10**.5


@pytest.mark.parametrize('d, mutual', [
    (1, 2 / 3), (2, 6 * math.pi / (8 * math.pi + 27**.5)), (3, 16 / 27)])
def test_authenticity_of_new_images_in_theory(d, mutual):
  """Copies are mutual nearest neighbours: one ball by the union of two."""
  rng = np.random.default_rng(0)
  sets = [types.ImageSet(4000, features=rng.random((4000, d)))
          for _ in range(2)]
  assert abs(values('authenticity', *sets)['authenticity'] - 1 + mutual) < .03


def test_each_metric_sees_what_it_is_for():
  collapsed = take(FAKE, np.arange(260) % 6)  # Two images a class.
  assert values('diversity', REAL, collapsed)['diversity'] < .6
  assert values('prdc', REAL, collapsed)['recall'] < .1
  alike = values('ms_ssim', REAL, take(REAL, np.arange(230) % 6))
  assert alike['ms_ssim'] > alike['ms_ssim_real'] + .1
  mixed = FAKE._replace(labels=(FAKE.labels + 1) % 3)
  assert values('intra_fd', REAL, mixed)['intra_fd'] > 10 * values(
      'intra_fd')['intra_fd']
  assert values('cas', REAL, mixed)['cas_real_to_fake'] < .1
  copied = take(REAL, np.arange(100))
  copied = copied._replace(features=copied.features + np.float32(.01))
  got = values('copying', REAL, copied)
  assert got['copying'] == 1 and got['copying_ratio'] < .1


def cifar(shared_data, n=400):
  with np.load(shared_data / 'cifar10_lossless_part.npz') as file:
    x, y = file['x_train'], file['y_train'].ravel()
    half = np.random.default_rng(0).permutation(len(x))[:2 * n]
    return [types.ImageSet(n, images=x[i], labels=y[i].astype(np.int32))
            for i in (half[:n], half[n:])]


@pytest.mark.parametrize('scales, side, grey', [
    (5, 176, False), (5, 176, True), (5, 161, False), (4, 160, True),
    (3, 64, False), (3, 64, True), (2, 32, False), (2, 28, True),
    (1, 11, False)])
def test_ms_ssim_is_tensorflows(scales, side, grey, shared_data):
  tf = pytest.importorskip('tensorflow')
  images = np.concatenate([s.images for s in cifar(shared_data, 10)])
  if grey:
    images = images[..., :1]
  images = tf.cast(tf.clip_by_value(tf.image.resize(
      images, (side, side + 1)), 0, 255), tf.uint8).numpy()
  weights = np.array([.0448, .2856, .3001, .2363, .1333])[:scales]
  a, b = np.arange(10), np.arange(10, 20)
  images[10:19] = images[:9] // 2 + images[10:19] // 2  # To some degree alike.
  got = registry.find('image_metrics', 'ms_ssim').similarity(images, a, b)
  want = tf.image.ssim_multiscale(images[a], images[b], 255,
                                  power_factors=weights / weights.sum())
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.ptp(got) > .1


def test_ms_ssim_of_images_that_are_too_small():
  tiny = [s._replace(images=s.images[:, :10]) for s in (REAL, FAKE)]
  refused('^ms_ssim: images of 10x32 pixels; expected at least 11 a side',
          'ms_ssim', *tiny)


def test_copies_of_photos_are_found_in_pixels(shared_data):
  real, fake = cifar(shared_data)
  clean = values('pixel_copying', real, fake)
  assert clean['pixel_copying'] < .05
  assert abs(clean['pixel_copying_ratio'] - 1) < .1
  images = fake.images.copy()
  noise = np.random.default_rng(0).integers(-9, 10, images[:40].shape)
  images[:40] = np.clip(real.images[:40] + noise, 0, 255)
  got = values('pixel_copying', real, fake._replace(images=images))
  assert .1 <= got['pixel_copying'] < .1 + .05


@pytest.mark.parametrize('side', [5, 12, 40])
def test_cells_are_means(side):
  images = REAL.images[:3, :20]  # 20 x 32.
  got = registry.find('image_metrics', 'pixel_copying')._cells(images, side)
  h, w = min(side, 20), min(side, 32)
  rows, columns = ([i * n // m for i in range(m + 1)]
                   for n, m in ((20, h), (32, w)))
  want = [[[image[a:b, c:d].mean((0, 1))
            for c, d in itertools.pairwise(columns)]
           for a, b in itertools.pairwise(rows)] for image in images]
  np.testing.assert_allclose(got, np.reshape(want, (3, -1)), rtol=1e-6)


def test_cas_on_photos_and_its_seeds(shared_data):
  real, fake = cifar(shared_data)
  seeds = []
  def spy(images, labels, seed):
    seeds.append((len(images), seed))
    return fit(images, labels, seed)
  got = compute('cas', real, take_images(fake, 300), fit=spy, runs=2)
  assert sorted(seeds) == [(300, 0), (300, 1), (400, 0), (400, 1)]
  assert all(.15 < m.value < .5 for m in got.values())  # 0.1 by chance.
  single = compute('cas', real, fake, runs=1)['cas_fake_to_real']
  assert single.std is None and single.n == 1


def take_images(side, n):
  return side._replace(count=n, images=side.images[:n], labels=side.labels[:n])


@pytest.mark.slow
def test_prdc_of_10_000_in_1000_dimensions():
  """As the README of the package prdc, whose draw is another."""
  rng = np.random.default_rng(0)
  real, fake = (types.ImageSet(
      10_000, features=np.float32(rng.normal(size=(10_000, 1000))))
                for _ in range(2))
  got = values('prdc', real, fake)
  for key, want, apart in (('precision', .4772, .05), ('recall', .4705, .05),
                           ('density', 1.0555, .2), ('coverage', .9735, .03)):
    assert abs(got[key] - want) < apart, key


def test_neighbours_are_shared_by_tiles_of_one_shape(monkeypatch):
  """A second set of the same size compiles nothing anew."""
  compute('prdc')
  sizes = [f._cache_size() for f in (neighbours._squared, neighbours._smallest,
                                     neighbours._inside)]
  compute('prdc', image_set(231, 7), image_set(255, 8))
  assert sizes == [f._cache_size() for f in (
      neighbours._squared, neighbours._smallest, neighbours._inside)]
