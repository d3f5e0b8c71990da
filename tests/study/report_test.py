"""The report page and the terminal table, from made-up results."""
import base64
import html.parser as parser
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from jaxaug.core import registry
from jaxaug.evaluation import stats
from jaxaug.study import results as evaluate
from jaxaug.study.report import figures, html

ERROR, NATS = {'percent': True}, {'percent': False}
VOID = {'meta', 'img', 'br', 'path', 'use', 'rect', 'circle', 'line'}


def sample(arms=4, runs=5, classifiers=1, classes=3, generators=('cgan',),
           channels=1, prefix='', folds=1, metric='error', budget='steps'):
  """Returns results in the schema of results.json; odd arms are synthetic.

  Arms with a larger number are better, whatever the metric.
  """
  rng = np.random.default_rng(0)
  names = [f'{prefix}class{k}' for k in range(classes)]
  side = {'exact': 0, 'near': 0, 'share': 0., 'yardstick_share': .001,
          'threshold': .21, 'median': .61, 'yardstick_median': .59,
          'alike': .0137}
  out = {
      'study': f'{prefix}study', 'command': f'python launch.py {prefix}',
      'created': '2026-01-02T03:04:05', 'alpha': .05,
      'config': {'seed': 0, 'budget': budget,
                 'data': {'name': f'{prefix}data', 'resize': None}},
      'stamp': {'commit': 'abc', 'jax': '0.10.2'}, 'devices': '1 cpu',
      'seeds': list(range(runs)), 'stages': {'data': 1.5, 'classify': 3700.},
      'data': {'name': f'{prefix}data', 'class_names': names,
               'shape': [8, 6, channels], 'digests': {'train': 'ff'},
               'overlaps': {'train_test': 0},
               'counts': {s: [20] * classes
                          for s in ('train', 'validation', 'test')}},
      'pools': {g: {'generator': g, 'per_class': 9,
                    'audit': {'n': 9 * classes, 'train': dict(side),
                              'test': dict(side)},
                    'quality': quality()} for g in generators},
      'generators': {
          g: {'model': 'cgan', 'steps': 9, 'seconds': 61.,
              'parameters': {'g': 1234, 'd': 567},
              'obedience': {'mean': .8, 'per_class': [.8] * classes, 'n': 27,
                            'judge_test_error': .1, 'judge_trained_on': 60},
              'curve': 'fd_pixels', 'chosen_step': 4,
              'choice': [{'step': s, 'fd_pixels': (s - 4)**2 + 1.}
                         for s in range(0, 9, 2)],
              'curves': [{'step': s, 'd_loss': 1., 'g_loss': 2.,
                          'd_accuracy_real': .5, 'd_accuracy_fake': .6}
                         for s in range(9)]} for g in generators},
      'classifiers': {f'{prefix}net{c}': classifier(
          rng, arms, runs, classes, prefix, folds, metric, budget)
                      for c in range(classifiers)}}
  out['across'] = evaluate.across(out['classifiers'], .05)
  return json.loads(json.dumps(out))


def quality():
  """Returns what the quality stage found of one pool."""
  def of(value, **more):
    return {'value': value, 'std': None, 'n': None, 'over': '', 'real': 60,
            'fake': 27} | more
  return {
      'extractor': 'pixels', 'weights': 'ab' * 32, 'protocol': 'as they are',
      'notes': ['too few & singular'], 'rows': {
          'fd_pixels': {'label': 'Fréchet distance', 'lower_is_better': True,
                        'train': of(12.3456), 'test': of(1234.5),
                        'real': of(.000123456)},
          'kd_pixels': {'label': 'kernel distance', 'lower_is_better': True,
                        'test': of(-.0125, std=.5, n=100, over='subsets')}}}


def classifier(rng, arms, runs, classes, prefix, folds, metric, budget):
  """Returns one entry of results['classifiers']."""
  blocks = {name: registry.find('metrics', name) for name in (
      'error', 'macro_f1', 'cross_entropy')}
  block = blocks[metric]
  sign = 1 if block.LOWER_IS_BETTER else -1
  values = {f'{prefix}arm{i}': list(.3 - sign * .02 * i +
                                    rng.normal(0, .004, folds * runs))
            for i in range(arms)}
  rows = stats.compare(values, f'{prefix}arm0', .05, block.LOWER_IS_BETTER,
                       folds=folds)
  for i, (arm, row) in enumerate(rows.items()):
    row |= {
        'description': f'{prefix}adding {i}', 'real': 60,
        'synthetic': 30 * (i % 2), 'generated': bool(i % 2),
        'values': values[arm], 'seconds': 2.,
        'steps': 100 + 10 * i * (budget != 'steps'),
        'metrics': {name: evaluate._summary(b, values[arm], folds)
                    for name, b in blocks.items()},
        'per_class_error': [.25] * classes,
        'per_class': {k: [.75] * classes
                      for k in ('precision', 'recall', 'f1')},
        'mcnemar': None if i == 0 else [
            {'gained': 30, 'lost': 11, 'p': .01 * (1 + 6 * (k % 2))}
            for k in range(folds * runs)],
        'confusion': (np.eye(classes, dtype=int) * 9 + 1).tolist(),
        'curves': [[{'step': s, 'validation_error': .9 - .1 * s,
                     'train_loss': 1.} for s in range(5)]
                   for _ in range(folds * runs)]}
  return {'model': 'cnn', 'steps': 100, 'parameters': 1000, 'metric': metric,
          'label': block.LABEL, 'percent': block.PERCENT,
          'lower_is_better': block.LOWER_IS_BETTER, 'folds': folds,
          'baseline': f'{prefix}arm0', 'arms': rows}


def near(channels=1, size=(8, 6), count=5):
  """Returns the closest pairs of one pool."""
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (count, *size, channels), np.uint8)
            for _ in range(4)]
  return dict(zip(('train_pool', 'train_real', 'test_pool', 'test_real'),
                  images, strict=True)) | {
      'train_distance': np.linspace(.1, .2, count),
      'test_distance': np.linspace(.3, .4, count)}


def grid(classes=3, channels=1, size=(8, 6), count=5, seed=0):
  shape = (classes, count, *size, channels)
  return tuple(np.random.default_rng(seed + i).integers(
      0, 256, shape, np.uint8) for i in range(2))


class Page(parser.HTMLParser):
  """Collects tags, attributes and text; fails on tags that do not close."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.links, self.text = [], [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.links += [v for k, v in attributes
                   if k in ('src', 'href', 'xlink:href', 'srcset', 'data')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data if self.open[-1:] != ['style'] else ''


def check(results, grids=None, pairs=None):
  """Renders, parses and checks what every page must hold."""
  text = html.page(results, grids or {}, pairs)
  page = Page(text)
  bare = re.sub(r'data:image/png;base64,[\w+/=]+', '', text)
  assert not re.search(r'https?:|//[a-z]', bare)
  assert all(link[0] == '#' or link.startswith('data:image/png;base64,')
             for link in page.links)
  assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
  assert 'url(' not in re.sub(r'url\(#\w+\)', '', bare)
  for name, classifier in results['classifiers'].items():
    assert name in page.text
    for arm, row in classifier['arms'].items():
      assert arm in page.text and row['verdict'] in page.text
  for name in results['data']['class_names']:
    assert name in page.text
  assert len(text) < 2_000_000
  return page


def test_order_and_numbers():
  results = sample()
  page = check(results, {'cgan': grid()})
  order = ['Does generated data help', 'Verdicts', 'Evidence',
           'Test top-1 error by arm', 'More measures', 'Learning curves',
           'Test error by class', 'Confusion matrices',
           'Real and generated images', 'Generators', 'Obedience by class',
           'Quality of the pools', 'Copies and leaks', 'Settings and timings',
           'How to read this']
  at = -1
  for title in order:
    at = page.text.index(title, at + 1)
  row = results['classifiers']['net0']['arms']['arm3']
  assert f'{100 * row["mean"]:.2f} ±' in page.text
  assert f'−{abs(100 * row["difference"]):.2f}' in page.text
  assert '80.0 %' in page.text and '1 h 02 min' in page.text
  assert 'lowest mean validation error' in page.text


def test_quality_of_a_pool():
  page = check(sample(), {'cgan': grid()})
  section = page.text[page.text.index('Quality of the pools'):]
  for words in ('pixels (weights abababababab): as they are', '12.35', '1,234',
                '0.0001235', '−0.0125', '± 0.5\n100 subsets', '27 × 60',
                'Note: too few & singular.'):
    assert words in section, words
  assert 'kept: step 4' in page.text


def test_a_collapse_is_said_in_one_sentence():
  """In the generator's row and before all verdicts; the rest stays."""
  results = sample(generators=('a', 'b'))
  watched = {'obedience': 'obedience_pixels', 'diversity': 'diversity_pixels'}
  for entry in results['generators'].values():
    entry |= {'watched': watched, 'collapsed_at': None, 'collapsed': None}
    for point in entry['choice']:
      point |= {'obedience_pixels': .5, 'diversity_pixels': .9}
  figures_before = check(sample(generators=('a', 'b'))).tags.count('svg')
  page = check(results)
  assert page.tags.count('svg') == figures_before + 2
  assert 'Label obedience, and diversity beside real images, %' in page.text
  assert 'stopped at' not in page.text
  for found, words in (
      ({'number': 'obedience', 'best': .852, 'now': .121},
       'label obedience fell to 12.1 % from 85.2 %'),
      ({'number': 'diversity', 'best': .8, 'now': 1e-9},
       'diversity fell to 0.0 % from 80.0 % of that of real images')):
    results['generators']['b'] |= {'collapsed_at': 6000, 'collapsed': found}
    text = ' '.join(check(results).text.split())
    words = f'stopped at step 6,000: {words}; the weights of step 4 are used'
    assert text.count(words) == 2
    assert f'Generator b {words}.' in text
    assert text.index('Before you trust this') < text.index(words) < (
        text.index('Verdicts Arm'))
    assert 'Generator a' not in text


@pytest.mark.parametrize('classes, size, shown', [
    (3, (92, 302), (92, 302)), (40, (1202, 302), (480, 241)),
    (3, (260, 802), (156, 480))], ids=str)
@pytest.mark.parametrize('channels', [1, 3])
def test_an_interpolation_is_shown(classes, size, shown, channels):
  """Small, and of many classes the first."""
  results = sample(classes=classes)
  image = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
  text = html.page(results, {'cgan': grid(classes)},
                     interpolations={'cgan': image})
  assert 'From one noise to another' in text
  found, = re.findall(r'class="grid" src="data:image/png;base64,([^"]+)', text)
  with Image.open(io.BytesIO(base64.b64decode(found))) as picture:
    assert (picture.height, picture.width) == shown
    assert picture.mode == ('L' if channels == 1 else 'RGB')
  assert 'From one noise' not in html.page(results, {'cgan': grid(classes)})


def test_every_figure_is_drawn():
  page = check(sample(arms=4, classifiers=2), {'cgan': grid()})
  # Two interval figures and four curves a classifier, three of the generator.
  assert page.tags.count('svg') == 2 * (2 + 4) + 3
  assert page.tags.count('img') == 3 * 5 * 2


@pytest.mark.parametrize('kind', [
    {'runs': 1}, {'runs': 2}, {'arms': 1}, {'arms': 2}, {'arms': 12},
    {'classifiers': 3}, {'classes': 25}, {'generators': ()},
    {'generators': ('a', 'b', 'c')}, {'runs': 1, 'arms': 1}])
def test_shapes_of_studies(kind):
  results = sample(**kind)
  check(results, {g: grid(kind.get('classes', 3))
                  for g in results['generators']})


def test_missing_parts():
  results = sample()
  results['generators']['cgan'] |= {'obedience': None, 'curves': []}
  for row in results['classifiers']['net0']['arms'].values():
    row['curves'] = [[] for _ in row['values']]
    row['description'] = ''
    for key in ('mcnemar', 'per_class', 'metrics', 'wilcoxon', 'bootstrap',
                'smallest_effect', 'runs_needed'):
      del row[key]
  results['pools']['cgan']['audit'] = None
  del results['pools']['cgan']['quality']
  del results['across'], results['config']['budget']
  page = check(results)
  assert 'not measured' in page.text and 'No validation error' in page.text
  assert 'lowest mean test top-1 error' in page.text
  assert 'not compared' in page.text and 'More measures' not in page.text
  del results['generators'], results['pools']
  assert 'Copies and leaks' not in check(results).text


def test_equal_errors_everywhere():
  results = sample()
  for row in results['classifiers']['net0']['arms'].values():
    row['values'] = [0.] * 5
    row['curves'] = [[{'step': 0, 'validation_error': 0.}]] * 5
  check(results)


def test_hostile_names():
  bad = '<script>alert(1)</script>"\'&$x^{$ {{ 7*7 }} [bold]'
  results = sample(prefix=bad, generators=(f'{bad}gan',))
  page = check(results, {f'{bad}gan': grid()})
  assert '<script>alert(1)</script>' in page.text  # As text, not as a tag.
  assert '49' not in re.sub(r'[\d.]+\d', '', page.text)
  assert bad in terminal(results, 4000)


def test_single_arm_is_one_sentence():
  results = sample(arms=2)
  row = results['classifiers']['net0']['arms']['arm1']
  row |= {'description': 'adding 50 cGAN images a class', 'difference': -.003,
          'low': -.011, 'high': .005, 'verdict': 'no evidence'}
  page = check(results)
  assert ('Adding 50 cGAN images a class: no evidence that it helps or hurts '
          '(difference −0.30 points, 95 % interval −1.10 to +0.50, 5 paired '
          'runs).') in page.text


def test_answer_counts_arms_and_names_a_stronger_plain_arm():
  results = sample(arms=5)['classifiers']['net0']
  results['arms']['arm1']['verdict'] = 'hurts'
  got = html.answer(results, .05)
  assert got['sentence'] == ('Generated images help in 1 and hurt in 1 of the '
                             '2 arms that have them')
  assert got['verdict'] == 'depends on the arm'
  assert [line[0] for line in got['lines']] == ['hurts', 'helps']
  results['arms']['arm1']['verdict'] = 'no evidence'
  assert html.answer(results, .05)['verdict'] == 'depends on the arm'
  results['arms']['arm1']['verdict'] = 'helps'
  assert html.answer(results, .05)['verdict'] == 'helps'
  assert len(got['plain']) == 2
  assert html.stronger_plain(results) == {
      'arm': 'arm4', 'words': 'a lower mean top-1 error'}
  results['arms']['arm3']['mean'] = .01
  assert html.stronger_plain(results) is None


def test_a_measure_whose_large_values_are_good():
  results = sample(arms=5, metric='macro_f1')
  entry = results['classifiers']['net0']
  assert entry['arms']['arm4']['difference'] > 0
  assert html.stronger_plain(entry) == {
      'arm': 'arm4', 'words': 'a higher mean macro F1'}
  entry['arms']['arm2']['curves'] = []
  assert html.best(entry) == ('arm4', 'highest mean test macro F1')
  page = check(results)
  for words in ('Test macro F1 by arm', '← worse · points · better →',
                'a higher mean macro F1 than every arm', 'higher is better',
                'Positive differences are better'):
    assert words in ' '.join(page.text.split())
  assert 'fewer' not in page.text
  assert 'higher is better' in ' '.join(terminal(results, 80).split())
  assert entry['arms']['arm3']['verdict'] == 'helps'


def test_a_measure_that_is_no_share():
  results = sample(metric='cross_entropy')
  page, text = check(results), terminal(results, 80)
  row = results['classifiers']['net0']['arms']['arm3']
  for words in (f'{row["mean"]:.4f}', f'−{abs(row["difference"]):.4f}'):
    assert words in page.text and words in text
  words = ' '.join(page.text.split())
  assert '← better · difference · worse →' in words
  assert 'Points are' not in words and 'Difference, points' not in words
  assert 'Cross-entropy, %' not in words and 'entropy by arm' in words


def test_measures_begin_with_that_of_the_verdict():
  for metric in 'error', 'cross_entropy', 'macro_f1':
    rows = html.measures(
        sample(metric=metric)['classifiers']['net0'])
    assert rows[0][0] == metric and len(rows) == 3
  results = sample()
  row = results['classifiers']['net0']['arms']['arm1']
  row['metrics']['cross_entropy'] |= {'mean': None, 'std': None, 'n': 0}
  assert 'Cross-entropy' in check(results).text


def test_evidence():
  results = sample()
  row = results['classifiers']['net0']['arms']['arm2']
  words = ' '.join(check(results).text.split())
  assert '150 / 55 3 of 5' in words
  assert 'speaks of two trained networks, not of the arm' in words
  for number in (html.p_value(row['wilcoxon']),
                 f'[{html.change(row["bootstrap"][0], ERROR)}, ',
                 f'{100 * row["smallest_effect"]:.2f} {row["runs_needed"]}'):
    assert number in words, number


def test_across_classifiers():
  results = sample(classifiers=3)
  row = results['across']['arm2']
  page = check(results)
  assert 'Across classifiers' in page.text
  assert html.change(row['difference'], ERROR) in page.text
  assert '12.7 standard errors' not in page.text
  assert '12.7 standard errors' in check(sample(classifiers=2)).text
  assert 'Across classifiers' not in check(sample()).text


def test_folds():
  results = sample(folds=4, runs=2)
  entry = results['classifiers']['net0']
  row = entry['arms']['arm1']
  assert row['n'] == 4 and len(row['values']) == 8
  words = ' '.join(check(results).text.split())
  for said in ('4-fold cross-validation', '4 paired folds',
               'Nadeau and Bengio', 'Small dots are folds',
               'test images in the first fold', 'train images, first fold'):
    assert said in words
  assert 'Nadeau' not in check(sample()).text


@pytest.mark.parametrize('kind', [
    {}, {'folds': 4, 'runs': 2}, {'metric': 'cross_entropy'}], ids=str)
def test_the_interval_that_is_drawn_is_that_of_the_verdict(kind, monkeypatch):
  drawn = []
  monkeypatch.setattr(figures, 'interval_figure',
                      lambda rows, *_: drawn.append(rows))
  entry = sample(**kind)['classifiers']['net0']
  html.classifier_figures(entry, .05)
  scale = 100 if entry['percent'] else 1
  for name, values, interval, _ in drawn[1][1:]:
    row = entry['arms'][name]
    np.testing.assert_allclose(
        interval, [scale * row[k] for k in ('difference', 'low', 'high')],
        rtol=1e-9)
    assert len(values) == row['n']
  for _, values, (mean, *_), _ in drawn[0]:
    np.testing.assert_allclose(mean, np.mean(values))


def test_budget_and_steps_where_they_differ():
  words = ' '.join(check(sample(budget='epochs')).text.split())
  assert 'equally often' in words and 'Steps' in words
  assert 'steps in every arm' not in words
  words = ' '.join(check(sample()).text.split())
  assert '100 steps in every arm' in words and 'same number of' in words


STUDY = [
    {'name': 'arm0', 'augment': 'standard'},
    {'name': 'arm1', 'augment': 'standard', 'pool': 'cgan', 'replace': .5},
    {'name': 'arm2', 'augment': 'standard', 'pool': 'cgan', 'pool_only': True},
    {'name': 'arm3', 'augment': 'standard', 'pool': 'cgan', 'add': 1.},
    {'name': 'arm4', 'augment': 'standard', 'pool': 'cgan', 'add': .25}]
PUBLISHED = {'classifier': 'net0', 'arm': 'arm2', 'value': .1075, 'n': 1,
             'metric': 'error', 'source': 'Some & others 2022',
             'difference': 'all images, one training'}


def with_ratios(arms=STUDY, published=(), **kind):
  """Results of arms that differ in their ratio."""
  results = sample(arms=len(arms), **kind)
  for entry in results['classifiers'].values():
    entry['ratios'] = evaluate.ratios(arms, entry, .05)
  results['published'] = evaluate.published(published, results['classifiers'])
  return json.loads(json.dumps(results))


def test_ratios_are_those_of_the_arms():
  group, = with_ratios()['classifiers']['net0']['ratios']
  assert (group['pool'], group['plain']) == ('cgan', 'arm0')
  assert {kind: [(p['ratio'], p['arm']) for p in points]
          for kind, points in group['lines'].items()} == {
      'replace': [(0, 'arm0'), (.5, 'arm1'), (1, 'arm2')],
      'add': [(0, 'arm0'), (.25, 'arm4'), (1, 'arm3')]}


@pytest.mark.parametrize('folds', [1, 4], ids='{} folds'.format)
def test_intervals_by_ratio_are_those_of_means(folds):
  """Student's by scipy; of folds with the larger error of Nadeau, Bengio."""
  from scipy import stats as reference
  entry = with_ratios(folds=folds)['classifiers']['net0']
  point = entry['ratios'][0]['lines']['replace'][2]
  values = np.reshape(entry['arms']['arm2']['values'], (folds, -1))
  values = values.mean(1) if folds > 1 else values[0]
  error = values.std(ddof=1) * np.sqrt(1 / len(values) +
                                       (1 / 3 if folds > 1 else 0))
  assert point['n'] == len(values)
  np.testing.assert_allclose(point['mean'], values.mean(), rtol=1e-12)
  np.testing.assert_allclose(
      (point['low'], point['high']), reference.t.interval(
          .95, len(values) - 1, values.mean(), error), rtol=1e-9)


def other(i, **change):
  return [arm | (change if j == i else {}) for j, arm in enumerate(STUDY)]


@pytest.mark.parametrize('arms, kinds, plain', [
    (STUDY[:2], [], None),
    (STUDY[:2] + STUDY[3:4], [], None),
    (STUDY[:3], ['replace'], 'arm0'),
    (STUDY[1:], ['replace', 'add'], None),
    (other(0, augment=''), ['replace', 'add'], None),
    (other(0, oversample='max'), ['replace', 'add'], None),
    (other(1, mix='mixup'), ['add'], 'arm0'),
    (other(1, class_weights=1.), ['add'], 'arm0'),
    (other(1, pool='vae'), ['add'], 'arm0'),
    (other(4, add=1.), ['replace'], 'arm0'),
    (other(4, add=None, add_per_class=9), ['replace'], 'arm0'),
    (other(3, mix='', mix_alpha=1.), ['replace', 'add'], 'arm0')],
    ids='{}'.format)
def test_only_arms_that_differ_in_their_ratio_make_a_line(arms, kinds, plain):
  results = with_ratios(
      [arm | {'name': f'arm{i}'} for i, arm in enumerate(arms)])
  groups = results['classifiers']['net0']['ratios']
  assert [list(group['lines']) for group in groups] == [kinds] * bool(kinds)
  assert [group['plain'] for group in groups] == [plain] * bool(kinds)
  assert ('by ratio' in check(results).text) == bool(kinds)


@pytest.mark.parametrize('metric, scale', [('error', 100),
                                           ('cross_entropy', 1)])
def test_what_is_drawn_by_ratio(metric, scale, monkeypatch):
  drawn = []
  monkeypatch.setattr(figures, 'ratio_figure',
                      lambda *args: drawn.append(args) or '')
  published = [PUBLISHED, PUBLISHED | {'arm': 'arm0', 'value': .0682},
               PUBLISHED | {'metric': 'macro_f1', 'value': .5},
               PUBLISHED | {'classifier': 'net1', 'value': .2}]
  results = with_ratios(published=published, classifiers=2, metric=metric)
  shown = html.ratio_figures(results)
  assert list(shown) == ['net0', 'net1']
  arms = results['classifiers']['net0']['arms']
  lines, marks, _ = drawn[0]
  assert [p[0] for p in lines['replace']] == [0, 50, 100]
  for line, names in (('replace', ('arm0', 'arm1', 'arm2')),
                      ('add', ('arm0', 'arm4', 'arm3'))):
    np.testing.assert_allclose([p[1] for p in lines[line]],
                               [scale * arms[n]['mean'] for n in names])
  if metric == 'error':  # Published figures of other measures are not drawn.
    np.testing.assert_allclose(marks['replace'], [(0, 6.82), (100, 10.75)])
    np.testing.assert_allclose(marks['add'], [(0, 6.82)])
    assert drawn[1][1] == {'replace': [(100, 20.)], 'add': []}
  else:
    assert marks == {'replace': [], 'add': []}


def test_the_figure_by_ratio_is_drawn():
  before = check(sample(arms=5)).tags.count('svg')
  results = with_ratios(published=[PUBLISHED], classifiers=2)
  page = check(results)
  assert page.tags.count('svg') == 2 * (before - 3) + 3 + 2
  for words in ('Test top-1 error by ratio', 'images of cgan beside arm0',
                'replacing', 'added', 'published'):
    assert words in page.text, words
  assert check(with_ratios(runs=1)).tags.count('svg') == before + 1


def test_published_figures():
  other_metric = PUBLISHED | {
      'arm': 'arm1', 'metric': 'cross_entropy', 'value': .3, 'n': 4,
      'difference': 'half the images'}
  results = with_ratios(published=[PUBLISHED, other_metric])
  arms = results['classifiers']['net0']['arms']
  words = ' '.join(check(results).text.split())
  row = arms['arm2']['metrics']['error']
  assert (f'arm2 Top-1 error, % {100 * row["mean"]:.2f} ± '
          f'{100 * row["std"]:.2f} (5) 10.75 (1)1') in words
  row = arms['arm1']['metrics']['cross_entropy']
  assert (f'arm1 Cross-entropy {row["mean"]:.4f} ± {row["std"]:.4f} (5) '
          '0.3000 (4)2') in words
  assert ('Some & others 2022. What differs: all images, one training Some & '
          'others 2022. What differs: half the images') in words
  assert 'no part in any test or verdict' in words


def test_without_published_figures_nothing_of_them_shows():
  for results in sample(), with_ratios():
    assert 'ublished' not in check(results).text


@pytest.mark.parametrize('channels, size', [(1, (8, 6)), (3, (96, 160))])
def test_closest_pairs(channels, size):
  results = sample()
  pairs = {'cgan': near(channels, size)}
  page = check(results, pairs=pairs)
  assert page.tags.count('img') == 2 * 2 * 5
  assert 'closest to test images' in page.text and '0.30' in page.text
  assert 'Alike, %' in page.text and '1.37' in page.text
  del pairs['cgan']['test_pool']
  text = check(results, pairs=pairs).text
  assert 'closest to train images' in text
  assert 'closest to test images' not in text
  drawn = figures.closest({'cgan': near(count=20)})['cgan']['train']
  assert len(drawn) == figures.PAIRS
  assert drawn[0][:2] == tuple(figures.png(near(count=20)[k][0])
                               for k in ('train_pool', 'train_real'))


def test_cautions():
  results = sample(runs=2)
  results['data']['overlaps'] = {'test in train': 3, 'within train': 0}
  audit = results['pools']['cgan']['audit']
  audit['test'] |= {'exact': 1}
  audit['train'] |= {'near': 6, 'share': 6 / 27}
  text = ' '.join(html.cautions(results))
  assert '2 paired runs' in text and 'test in train: 3.' in text
  assert '1 exact copy of test' in text and 'within train' not in text
  assert '22.22 % of pool cgan are near copies of train' in text
  assert '0.10 % are as near' in text and 'near copies of test' not in text
  assert not html.cautions(sample())


def test_near_copies_as_many_as_chance_gives_are_no_caution():
  results = sample()
  side = results['pools']['cgan']['audit']['train']
  results['pools']['cgan']['audit']['n'] = 10_000
  side |= {'near': 16, 'share': .0016}  # 10 are expected.
  assert not html.cautions(results)
  side |= {'near': 17, 'share': .0017}
  assert len(html.cautions(results)) == 1
  side |= {'yardstick_share': None}
  assert '–' in check(results).text


def test_best_is_chosen_on_validation():
  classifier = sample(arms=3)['classifiers']['net0']
  assert classifier['arms']['arm1']['mean'] > classifier['arms']['arm2']['mean']
  for run in classifier['arms']['arm1']['curves']:
    run[2]['validation_error'] = .001
  assert html.best(classifier) == ('arm1', 'lowest mean validation error')
  assert html.best(sample(arms=1)['classifiers']['net0']) is None


@pytest.mark.parametrize('channels', [1, 3])
def test_grids_keep_their_pixels(channels):
  import base64

  from PIL import Image
  real, fake = grid(channels=channels)
  rows = figures.strips({'cgan': (real, fake)})['cgan']
  for k, pair in enumerate(rows):
    for images, uris in zip((real, fake), pair, strict=True):
      for image, uri in zip(images[k], uris, strict=True):
        data = io.BytesIO(base64.b64decode(uri.split(',')[1]))
        got = np.asarray(Image.open(data)).reshape(image.shape)
        np.testing.assert_array_equal(got, image)


def test_large_grids_stay_small():
  results = sample(classes=40, generators=('a', 'b', 'c'), channels=3)
  one = grid(40, 3, (96, 160), 8)
  page = check(results, dict.fromkeys('abc', one),
               dict.fromkeys('abc', near(3, (96, 160))))
  assert 'The first 20 of 40 classes' in ' '.join(page.text.split())


def test_same_results_give_the_same_page():
  assert html.page(sample(), {}) == html.page(sample(), {})


def test_write(tmp_path):
  html.write(sample(), {'cgan': grid()}, tmp_path / 'report.html')
  assert [f.name for f in tmp_path.iterdir()] == ['report.html']
  assert (tmp_path / 'report.html').read_text('utf-8').startswith('<!doctype')


def test_no_pyplot_and_no_tensorflow():
  import subprocess
  import sys
  code = ('import sys; from jaxaug.study.report import figures, html; '

          'assert "matplotlib" not in sys.modules; '
          'figures._axes(99, 99); '
          'print([m for m in ("matplotlib.pyplot", "tensorflow") '
          'if m in sys.modules])')
  got = subprocess.run([sys.executable, '-c', code], capture_output=True,
                       text=True, check=True,
                       cwd=pathlib.Path(__file__).parents[2])
  assert got.stdout.strip() == '[]'


def terminal(results, width):
  import rich.console
  console = rich.console.Console(file=io.StringIO(), width=width)
  console.print(html.verdict_table(results))
  return console.file.getvalue()


def test_verdict_table():
  results = sample(arms=3, classifiers=2)
  arms = results['classifiers']['net1']['arms']
  row = arms['arm2']
  arms['replace_100'] = row | {'real': 44_000, 'synthetic': 45_000}
  text = terminal(results, 80)
  for word in ('net0', 'net1', 'arm2', 'replace_100', 'baseline', ' 60 ',
               '+ 30', ' 44,000 ', '+ 45,000',
               f'{100 * row["mean"]:.2f}',
               html.change(row['difference'], ERROR),
               f'[{html.change(row["low"], ERROR)}, '
               f'{html.change(row["high"], ERROR)}]'):
    assert word in text
  assert max(map(len, text.splitlines())) <= 80
  assert 'too few runs' in terminal(sample(runs=1), 80)


@pytest.mark.parametrize('value, of, want', [
    (.0123, ERROR, '+1.23'), (-.0123, ERROR, '−1.23'),
    (-.00001, ERROR, '0.00'), (0, ERROR, '0.00'), (None, ERROR, '–'),
    (-.01234, NATS, '−0.0123'), (1e-6, NATS, '0.0000'), (None, NATS, '–')])
def test_change(value, of, want):
  assert html.change(value, of) == want


@pytest.mark.parametrize('value, of, want', [
    (.0123, ERROR, '1.23'), (.0123, NATS, '0.0123'), (None, NATS, '–')])
def test_number(value, of, want):
  assert html.number(value, of) == want


@pytest.mark.parametrize('value, want', [
    (.00001, '<0.0001'), (.00123, '0.0012'), (.0499, '0.0499'), (1., '1.000')])
def test_p_value(value, want):
  assert html.p_value(value) == want


@pytest.mark.parametrize('value, want', [
    (4.21, '4.2 s'), (200, '3 min 20 s'), (3599.9, '1 h 00 min'),
    (3725, '1 h 02 min'), (None, '–')])
def test_duration(value, want):
  assert html.duration(value) == want
