"""The report page and the terminal table, from made-up results."""
import base64
import functools
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
from jaxaug.study import arms as study_arms
from jaxaug.study import verdicts
from jaxaug.study.report import figures, page, pictures, table, words

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
      'seeds': list(range(runs)), 'failures': [],
      'stages': {'data': 1.5, 'classify': 3700.},
      'data': {'name': f'{prefix}data', 'class_names': names,
               'shape': [8, 6, channels], 'digests': {'train': 'ff'},
               'overlaps': {'train_test': 0},
               'counts': {s: [20] * classes
                          for s in ('train', 'validation', 'test')}},
      'pools': {g: {'generator': g, 'per_class': 9, 'counts': [9] * classes,
                    'drawn': 50, 'from_real': False, 'selectors': [],
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
  out['across'] = verdicts.across(out['classifiers'], .05)
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
  numbers = {name: registry.find('metrics', name).VALUES[name] for name in (
      'error', 'macro_f1', 'cross_entropy')}
  number = numbers[metric]
  sign = 1 if number.lower_is_better else -1
  values = {f'{prefix}arm{i}': list(.3 - sign * .02 * i +
                                    rng.normal(0, .004, folds * runs))
            for i in range(arms)}
  rows = stats.compare(values, f'{prefix}arm0', .05, number.lower_is_better,
                       folds=folds)
  for i, (arm, row) in enumerate(rows.items()):
    row |= {
        'description': f'{prefix}adding {i}', 'real': 60,
        'synthetic': 30 * (i % 2), 'generated': bool(i % 2),
        'values': values[arm], 'seconds': 2.,
        'steps': 100 + 10 * i * (budget != 'steps'),
        'metrics': {name: verdicts._summary(n, values[arm], folds)
                    for name, n in numbers.items()},
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
          'label': number.label, 'percent': number.unit == '%',
          'lower_is_better': number.lower_is_better, 'folds': folds,
          'baseline': f'{prefix}arm0', 'arms': rows, 'missing': {}}


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
  return (*(np.random.default_rng(seed + i).integers(
      0, 256, shape, np.uint8) for i in range(2)), np.arange(classes))


class Page(parser.HTMLParser):
  """Collects tags, attributes and text; fails on tags that do not close."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.links, self.text = [], [], [], ''
    self.feed(text)
    self.close()
    self.source, self.words = text, ' '.join(self.text.split())
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
  text = page.render(results, page.Pictures(grids or {}, pairs or {}))
  shown = Page(text)
  bare = re.sub(r'data:image/png;base64,[\w+/=]+', '', text)
  assert not re.search(r'https?:|//[a-z]', bare)
  assert all(link[0] == '#' or link.startswith('data:image/png;base64,')
             for link in shown.links)
  assert not {'script', 'link', 'iframe', 'object'} & set(shown.tags)
  assert 'url(' not in re.sub(r'url\(#\w+\)', '', bare)
  for name, classifier in results['classifiers'].items():
    assert name in shown.text
    for arm, row in classifier['arms'].items():
      assert arm in shown.text and row['verdict'] in shown.text
  for name in results['data']['class_names']:
    assert name in shown.text
  assert len(text) < 2_000_000
  return shown


@functools.cache
def plain(**kind):
  """The page of an ordinary study."""
  return check(sample(**kind), {'cgan': grid()})


def test_order_and_numbers():
  results, shown = sample(), plain()
  order = ['Does generated data help', 'Verdicts', 'Evidence',
           'Test top-1 error by arm', 'More measures', 'Learning curves',
           'Test error by class', 'Confusion matrices',
           'Real and generated images', 'Generators', 'Obedience by class',
           'Quality of the pools', 'Copies and leaks', 'Settings and timings',
           'How to read this']
  at = -1
  for title in order:
    at = shown.text.index(title, at + 1)
  row = results['classifiers']['net0']['arms']['arm3']
  assert f'{100 * row["mean"]:.2f} ±' in shown.text
  assert f'−{abs(100 * row["difference"]):.2f}' in shown.text
  assert '80.0 %' in shown.text and '1 h 02 min' in shown.text
  assert 'lowest mean validation error' in shown.text


def test_quality_of_a_pool():
  shown = plain()
  section = shown.text[shown.text.index('Quality of the pools'):]
  for said in ('pixels (weights abababababab): as they are', '12.35', '1,234',
               '0.0001235', '−0.0125', '± 0.5\n100 subsets', '27 × 60',
               'Note: too few & singular.'):
    assert said in section, said
  assert 'kept: step 4' in shown.text


def test_a_collapse_is_said_in_one_sentence():
  """In the generator's row and before all verdicts; the rest stays."""
  results = sample(generators=('a', 'b'))
  watched = {'obedience': 'obedience_pixels', 'diversity': 'diversity_pixels'}
  for entry in results['generators'].values():
    entry |= {'watched': watched, 'collapsed_at': None, 'collapsed': None}
    for point in entry['choice']:
      point |= {'obedience_pixels': .5, 'diversity_pixels': .9}
  shown = check(results)
  # Two interval figures and four curves, four of each generator.
  assert shown.tags.count('svg') == 2 + 4 + 2 * 4
  assert shown.text.count(
      'Label obedience, and diversity beside real images, %') == 2
  assert 'stopped at' not in shown.text
  for found, said in (
      ({'number': 'obedience', 'best': .852, 'now': .121},
       'label obedience fell to 12.1 % from 85.2 %'),
      ({'number': 'diversity', 'best': .8, 'now': 1e-9},
       'diversity fell to 0.0 % from 80.0 % of that of real images')):
    results['generators']['b'] |= {'collapsed_at': 6000, 'collapsed': found}
    text = check(results).words
    said = f'stopped at step 6,000: {said}; the weights of step 4 are used'
    assert text.count(said) == 2
    assert f'Generator b {said}.' in text
    assert text.index('Before you trust this') < text.index(said) < (
        text.index('Verdicts Arm'))
    assert 'Generator a' not in text


def opened(uri):
  """The picture in a data URI."""
  kind, _, data = uri.partition(',')
  assert kind == 'data:image/png;base64'
  return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize('classes, size, small', [
    (3, (92, 302), (92, 302)), (40, (1202, 302), (480, 241)),
    (3, (260, 802), (156, 480))], ids=str)
@pytest.mark.parametrize('channels', [1, 3])
def test_an_interpolation_is_small_and_of_many_classes_the_first(
    classes, size, small, channels):
  image = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
  with opened(pictures.first_rows(image, classes)) as picture:
    assert (picture.height, picture.width) == small
    assert picture.mode == ('L' if channels == 1 else 'RGB')
    if small == size:
      np.testing.assert_array_equal(np.reshape(picture, image.shape), image)


def test_an_interpolation_is_shown():
  image = np.zeros((92, 302, 1), np.uint8)
  text = page.render(sample(), page.Pictures({'cgan': grid()},
                                             interpolations={'cgan': image}))
  assert 'From one noise to another' in text
  found, = re.findall(r'class="grid" src="([^"]+)', text)
  assert found == pictures.first_rows(image, 3)
  assert 'From one noise' not in plain().text


def test_every_figure_is_drawn():
  shown = plain(classifiers=2)
  # Two interval figures and four curves a classifier, three of the generator.
  assert shown.tags.count('svg') == 2 * (2 + 4) + 3
  assert shown.tags.count('img') == 3 * 5 * 2


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
  shown = check(results)
  assert 'not measured' in shown.text and 'No validation error' in shown.text
  assert 'lowest mean test top-1 error' in shown.text
  assert 'not compared' in shown.text and 'More measures' not in shown.text
  del results['generators'], results['pools']
  assert 'Copies and leaks' not in check(results).text


def _without(results, *arms, why='1 of 5 runs: classify net0.arm1.3, step 7'):
  """Takes arms out of a study, as if a task of theirs had failed."""
  first = results['classifiers']['net0']
  for arm in arms:
    row = first['arms'].pop(arm)
    first['missing'][arm] = {'why': why, 'generated': row['generated']}
  for row in first['arms'].values():
    if row.get('baseline') in arms:  # As stats.compare leaves it.
      row |= {k: None for k in ('difference', 'low', 'high', 'error', 'p',
                                'p_corrected', 'mcnemar', *stats._DETAILS)}
      row['verdict'] = 'not compared'
  results['failures'] = [{
      'unit': 'net0.arm1.3', 'phase': 'classify', 'step': 1234,
      'time': '2026-01-02T03:04:05Z', 'why': 'train_loss is nan'}]
  results['across'] = verdicts.across(results['classifiers'], .05)
  return results


@pytest.mark.parametrize('classifiers', [1, 2])
def test_a_hole_is_shown(classifiers):
  page = check(_without(sample(classifiers=classifiers), 'arm1'))
  assert ('Classify net0.arm1.3 failed in step 1,234 (2026-01-02 03:04:05Z): '
          'train_loss is nan.') in page.text
  assert 'arm1 (1 of 5 runs: classify net0.arm1.3, step 7)' in page.text
  # Of the four arms, arm1 and arm3 have generated images.
  assert 'Adding 3: helps' in page.text
  assert ('of them: arm1.' in page.words) == (classifiers == 2)
  assert 'runs that happened to end are not any runs' in page.words
  assert 'happened to end' not in plain().words


@pytest.mark.parametrize('gone', [['arm0'], [f'arm{i}' for i in range(4)]])
@pytest.mark.parametrize('classifiers', [1, 2])
def test_a_hole_in_place_of_the_baseline(gone, classifiers):
  results = _without(sample(classifiers=classifiers), *gone)
  page = check(results)
  assert 'No arm with generated images has a verdict' in page.text
  text = terminal(results, 100)
  assert 'missing' in text and 'classifynet0.arm1.3' in ''.join(text.split())
  if len(gone) == 1:  # What ended is shown as it is.
    assert 'arm3 (is compared with arm0, which is missing)' in page.text
    for arm in ('arm1', 'arm2', 'arm3'):
      row = results['classifiers']['net0']['arms'][arm]
      assert f'{100 * row["mean"]:.2f}' in page.text
    assert 'not compared' in text
  if classifiers == 2:
    assert 'helps' in page.text and 'helps' in text
    assert not results['across']


@pytest.mark.parametrize('gone, words', [
    (['arm1', 'arm3'], 'No arm with generated images has a verdict'),
    (['arm2'], 'Generated images help in 2 of the 2 arms that have them.'),
    (['arm1'], 'Adding 3: helps')])
def test_the_answer_says_what_is_missing(gone, words):
  page = check(_without(sample(), *gone))
  assert words in page.words and 'nothing to compare' not in page.text


def test_a_missing_arm_without_generated_images_is_not_one_with_them():
  results = _without(sample(arms=3), 'arm2')
  for row in results['classifiers']['net0']['arms'].values():
    row['generated'] = False
  page = check(results)
  assert 'No arm with generated images was compared' in page.text


def test_equal_errors_everywhere():
  results = sample()
  for row in results['classifiers']['net0']['arms'].values():
    row['values'] = [0.] * 5
    row['curves'] = [[{'step': 0, 'validation_error': 0.}]] * 5
  check(results)


def test_hostile_names():
  bad = '<script>alert(1)</script>"\'&$x^{$ {{ 7*7 }} [bold]'
  results = sample(prefix=bad, generators=(f'{bad}gan',))
  shown = check(results, {f'{bad}gan': grid()})
  assert '<script>alert(1)</script>' in shown.text  # As text, not as a tag.
  assert '49' not in re.sub(r'[\d.]+\d', '', shown.text)
  assert bad in terminal(results, 4000)


def test_single_arm_is_one_sentence():
  results = sample(arms=2)
  row = results['classifiers']['net0']['arms']['arm1']
  row |= {'description': 'adding 50 cGAN images a class', 'difference': -.003,
          'low': -.011, 'high': .005, 'verdict': 'no evidence'}
  shown = check(results)
  assert ('Adding 50 cGAN images a class: no evidence that it helps or hurts '
          '(difference −0.30 points, 95 % interval −1.10 to +0.50, 5 paired '
          'runs).') in shown.text


def test_answer_counts_arms_and_names_a_stronger_plain_arm():
  results = sample(arms=5)['classifiers']['net0']
  results['arms']['arm1']['verdict'] = 'hurts'
  got = words.answer(results, .05)
  assert got['sentence'] == ('Generated images help in 1 and hurt in 1 of the '
                             '2 arms that have them')
  assert got['verdict'] == 'depends on the arm'
  assert [line[0] for line in got['lines']] == ['hurts', 'helps']
  results['arms']['arm1']['verdict'] = 'no evidence'
  assert words.answer(results, .05)['verdict'] == 'depends on the arm'
  results['arms']['arm1']['verdict'] = 'helps'
  assert words.answer(results, .05)['verdict'] == 'helps'
  assert len(got['plain']) == 2
  assert words.stronger_plain(results) == {
      'arm': 'arm4', 'words': 'a lower mean top-1 error'}
  results['arms']['arm3']['mean'] = .01
  assert words.stronger_plain(results) is None


def test_a_measure_whose_large_values_are_good():
  results = sample(arms=5, metric='macro_f1')
  entry = results['classifiers']['net0']
  assert entry['arms']['arm4']['difference'] > 0
  assert words.stronger_plain(entry) == {
      'arm': 'arm4', 'words': 'a higher mean macro F1'}
  entry['arms']['arm2']['curves'] = []
  assert words.best(entry) == ('arm4', 'highest mean test macro F1')
  shown = check(results)
  for said in ('Test macro F1 by arm', '← worse · points · better →',
               'a higher mean macro F1 than every arm', 'higher is better',
               'Positive differences are better'):
    assert said in shown.words
  assert 'fewer' not in shown.text
  assert 'higher is better' in ' '.join(terminal(results, 80).split())
  assert entry['arms']['arm3']['verdict'] == 'helps'


def test_a_measure_that_is_no_share():
  results = sample(metric='cross_entropy')
  shown, text = check(results), terminal(results, 80)
  row = results['classifiers']['net0']['arms']['arm3']
  for said in (f'{row["mean"]:.4f}', f'−{abs(row["difference"]):.4f}'):
    assert said in shown.text and said in text
  said = shown.words
  assert '← better · difference · worse →' in said
  assert 'Points are' not in said and 'Difference, points' not in said
  assert 'Cross-entropy, %' not in said and 'entropy by arm' in said


def test_measures_begin_with_that_of_the_verdict():
  for metric in 'error', 'cross_entropy', 'macro_f1':
    rows = page.measures(
        sample(metric=metric)['classifiers']['net0'])
    assert rows[0][0] == metric and len(rows) == 3
  results = sample()
  row = results['classifiers']['net0']['arms']['arm1']
  row['metrics']['cross_entropy'] |= {'mean': None, 'std': None, 'n': 0}
  assert 'Cross-entropy' in check(results).text


def test_evidence():
  results = sample()
  row = results['classifiers']['net0']['arms']['arm2']
  said = plain().words
  assert '150 / 55 3 of 5' in said
  assert 'speaks of two trained networks, not of the arm' in said
  for number in (words.p_value(row['wilcoxon']),
                 f'[{words.change(row["bootstrap"][0], ERROR)}, ',
                 f'{100 * row["smallest_effect"]:.2f} {row["runs_needed"]}'):
    assert number in said, number


def test_across_classifiers():
  results = sample(classifiers=3)
  row = results['across']['arm2']
  shown = check(results)
  assert 'Across classifiers' in shown.text
  assert words.change(row['difference'], ERROR) in shown.text
  assert '12.7 standard errors' not in shown.text
  assert '12.7 standard errors' in plain(classifiers=2).text
  assert 'Across classifiers' not in plain().text


def test_folds():
  results = sample(folds=4, runs=2)
  entry = results['classifiers']['net0']
  row = entry['arms']['arm1']
  assert row['n'] == 4 and len(row['values']) == 8
  said = check(results).words
  for part in ('4-fold cross-validation', '4 paired folds',
               'Nadeau and Bengio', 'Small dots are folds',
               'test images in the first fold', 'train images, first fold'):
    assert part in said
  assert 'Nadeau' not in plain().text


@pytest.mark.parametrize('kind', [
    {}, {'folds': 4, 'runs': 2}, {'metric': 'cross_entropy'}], ids=str)
def test_the_interval_that_is_drawn_is_that_of_the_verdict(kind, monkeypatch):
  drawn = []
  monkeypatch.setattr(figures, 'interval_figure',
                      lambda rows, *_: drawn.append(rows))
  entry = sample(**kind)['classifiers']['net0']
  figures.classifier_figures(entry, .05)
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
  said = plain(budget='epochs').words
  assert 'equally often' in said and 'Steps' in said
  assert 'steps in every arm' not in said
  said = plain().words
  assert '100 steps in every arm' in said and 'same number of' in said


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
    entry['ratios'] = verdicts.ratios(
        study_arms.read(map(dict, arms)), entry, .05)
  results['published'] = verdicts.published(published, results['classifiers'])
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


@pytest.mark.parametrize('arms, kinds, zero', [
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
def test_only_arms_that_differ_in_their_ratio_make_a_line(arms, kinds, zero):
  results = with_ratios(
      [arm | {'name': f'arm{i}'} for i, arm in enumerate(arms)])
  groups = results['classifiers']['net0']['ratios']
  found = [(list(group['lines']), group['plain']) for group in groups]
  assert found == ([(kinds, zero)] if kinds else [])


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
  shown = figures.ratio_figures(results)
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
  shown = check(with_ratios(published=[PUBLISHED], classifiers=2))
  # Two interval figures, five curves and that by ratio a classifier.
  assert shown.tags.count('svg') == 2 * (2 + 5 + 1) + 3
  for said in ('Test top-1 error by ratio', 'images of cgan beside arm0',
               'replacing', 'added', 'published'):
    assert said in shown.text, said
  once = check(with_ratios(runs=1))  # No intervals, nothing published.
  assert once.tags.count('svg') == 2 + 5 + 1 + 3
  for before in once, plain():
    assert 'ublished' not in before.text
  assert 'by ratio' in once.text and 'by ratio' not in plain().text


def test_published_figures():
  other_metric = PUBLISHED | {
      'arm': 'arm1', 'metric': 'cross_entropy', 'value': .3, 'n': 4,
      'difference': 'half the images'}
  results = with_ratios(published=[PUBLISHED, other_metric])
  arms = results['classifiers']['net0']['arms']
  said = check(results).words
  row = arms['arm2']['metrics']['error']
  assert (f'arm2 Top-1 error, % {100 * row["mean"]:.2f} ± '
          f'{100 * row["std"]:.2f} (5) 10.75 (1)1') in said
  row = arms['arm1']['metrics']['cross_entropy']
  assert (f'arm1 Cross-entropy {row["mean"]:.4f} ± {row["std"]:.4f} (5) '
          '0.3000 (4)2') in said
  assert ('Some & others 2022. What differs: all images, one training Some & '
          'others 2022. What differs: half the images') in said
  assert 'no part in any test or verdict' in said


@pytest.mark.parametrize('channels, size', [(1, (8, 6)), (3, (96, 160))])
def test_closest_pairs(channels, size):
  results = sample()
  pairs = {'cgan': near(channels, size)}
  shown = check(results, pairs=pairs)
  assert shown.tags.count('img') == 2 * 2 * 5
  assert 'closest to test images' in shown.text and '0.30' in shown.text
  assert 'Alike, %' in shown.text and '1.37' in shown.text


def test_the_closest_pairs_come_first_and_may_lack_a_split():
  pairs = near(count=20)
  found = pictures.closest({'cgan': pairs})['cgan']
  assert [len(found[split]) for split in ('train', 'test')] == [
      pictures.PAIRS] * 2
  made, real, distance = found['train'][0]
  assert (made, real) == tuple(pictures.png(pairs[k][0])
                               for k in ('train_pool', 'train_real'))
  assert distance == pairs['train_distance'][0]
  del pairs['test_pool']
  assert pictures.closest({'cgan': pairs}) == {'cgan': {
      'train': found['train']}}
  pairs['train_pool'] = pairs['train_pool'][:0]
  assert pictures.closest({'cgan': pairs}) == {}


def test_cautions():
  results = sample(runs=2)
  results['data']['overlaps'] = {'test in train': 3, 'within train': 0}
  audit = results['pools']['cgan']['audit']
  audit['test'] |= {'exact': 1}
  audit['train'] |= {'near': 6, 'share': 6 / 27}
  text = ' '.join(words.cautions(results))
  assert '2 paired runs' in text and 'test in train: 3.' in text
  assert '1 exact copy of test' in text and 'within train' not in text
  assert '22.22 % of pool cgan are near copies of train' in text
  assert '0.10 % are as near' in text and 'near copies of test' not in text
  assert not words.cautions(sample())


def test_near_copies_as_many_as_chance_gives_are_no_caution():
  results = sample()
  side = results['pools']['cgan']['audit']['train']
  results['pools']['cgan']['audit']['n'] = 10_000
  side |= {'near': 16, 'share': .0016}  # 10 are expected.
  assert not words.cautions(results)
  side |= {'near': 17, 'share': .0017}
  assert len(words.cautions(results)) == 1
  side |= {'yardstick_share': None}
  assert '–' in check(results).text


def test_best_is_chosen_on_validation():
  classifier = sample(arms=3)['classifiers']['net0']
  assert classifier['arms']['arm1']['mean'] > classifier['arms']['arm2']['mean']
  for run in classifier['arms']['arm1']['curves']:
    run[2]['validation_error'] = .001
  assert words.best(classifier) == ('arm1', 'lowest mean validation error')
  assert words.best(sample(arms=1)['classifiers']['net0']) is None


@pytest.mark.parametrize('channels', [1, 3])
def test_grids_keep_their_pixels(channels):
  real, fake, classes = grid(channels=channels)
  rows = pictures.strips({'cgan': (real, fake, classes)})['cgan']
  for k, pair in enumerate(rows):
    for images, uris in zip((real, fake), pair, strict=True):
      for image, uri in zip(images[k], uris, strict=True):
        np.testing.assert_array_equal(np.reshape(opened(uri), image.shape),
                                      image)


def test_a_heatmap_is_dark_where_the_share_of_a_row_is_large():
  counts = np.array([[9, 0, 0], [2, 1, 1], [0, 0, 0]])
  pixels = pictures.heatmap(counts.tolist())
  assert pixels.shape == (3, 3, 3) and pixels.dtype == np.uint8
  light = pixels.astype(int).sum(-1)
  assert light[0].argmin() == 0 and (light[0, 1:] == 3 * 255).all()
  assert light[0, 0] < light[1, 0] < light[1, 1] == light[1, 2] < 3 * 255
  assert (light[2] == 3 * 255).all()


def test_large_grids_stay_small():
  results = sample(classes=40, generators=('a', 'b', 'c'), channels=3)
  one = grid(40, 3, (96, 160), 8)
  shown = check(results, dict.fromkeys('abc', one),
               dict.fromkeys('abc', near(3, (96, 160))))
  assert 'The first 20 of 40 classes' in shown.words


def test_same_results_give_the_same_page():
  assert page.render(
      sample(), page.Pictures({'cgan': grid()})) == plain().source


def test_a_pool_of_some_classes_is_shown_with_their_names():
  real, fake, _ = grid(2)
  results = sample()
  text = page.render(results, page.Pictures(
      {'cgan': (real, fake, np.array([0, 2]))}))
  names = results['data']['class_names']
  assert re.findall('<span class="class">(.*?)</span>', text) == [
      names[0], names[2]]
  assert '2 of 3 classes.' in Page(text).words


def test_what_selectors_kept_and_why():
  results = sample()
  assert 'What selectors kept' not in plain().text
  results['pools']['cgan']['selectors'] = [
      {'selector': 'novelty', 'seen': 50, 'kept': 41,
       'reasons': {'a copy': 8, 'an outlier': 0, 'twice': 3}},
      {'selector': 'quota', 'seen': 41, 'kept': 41, 'reasons': {}}]
  words = check(results).words
  assert 'cgan50 drawn, 27 takennovelty 5041 8 a copy3 twice' in words
  assert 'quota 4141 none' in words and 'outlier' not in words


def test_copies_stand_beside_the_gain():
  results = sample()
  (name, c), = list(results['classifiers'].items())[:1]
  arm = next(arm for arm, row in c['arms'].items() if row['generated'])
  for copies, said in (
      ({'share': .021, 'clean': .01, 'from_real': False},
       '2.1 % near copies of them (clean images: 1.0 %)'),
      ({'share': 0., 'clean': .01, 'from_real': True},
       'made from training images; 0.0 % near copies of them'),
      ({'share': .01, 'clean': .01, 'from_real': False}, '')):
    c['arms'][arm]['copies'] = copies
    words = check(results).words
    assert said in words if said else 'near copies of them' not in words


def test_models_of_one_image_each():
  results = sample()
  results['generators']['cgan'] |= {
      'images': 3, 'reconstruction_rmse': [.125, .0625, .25], 'curves': []}
  assert ('3 images, one model each, reconstructed with a root mean squared '
          'error of 0.0625 to 0.25') in check(results).words


def test_representatives_are_shown_whole_with_their_classes():
  image = np.zeros((62, 152, 1), np.uint8)
  results = sample(classes=40)
  results['config']['selectors'] = {'koala': {'classes': [7, 'class2']}}
  text = page.render(results, page.Pictures(
      {'cgan': grid(classes=40)}, representatives={'koala': image}))
  assert 'Training images picked by koala' in text
  assert 'koala: class2, class7' in ' '.join(text.split())
  found, = re.findall(r'class="grid" src="([^"]+)', text)
  assert found == pictures.first_rows(image, 2)
  assert 'Representatives' not in plain().text


def test_write(tmp_path):
  page.write(sample(), page.Pictures({'cgan': grid()}),
             tmp_path / 'report.html')
  assert [f.name for f in tmp_path.iterdir()] == ['report.html']
  assert (tmp_path / 'report.html').read_text('utf-8').startswith('<!doctype')


def test_no_pyplot_and_no_tensorflow():
  import subprocess
  import sys
  code = ('import sys; from jaxaug.study.report import figures, page; '
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
  console.print(table.verdict_table(results))
  return console.file.getvalue()


def test_the_minority_stands_beside_the_verdict():
  results = sample(arms=3, classifiers=1)
  results['config'] |= {'metric': 'error', 'minority': ['class1', 'class2']}
  for row in results['classifiers']['net0']['arms'].values():
    row['metrics']['minority_accuracy'] = {
        'label': 'minority accuracy', 'percent': True, 'mean': 0.3217,
        'lower_is_better': False, 'std': 0.0456, 'n': 5, 'values': []}
  text = terminal(results, 80)
  assert text.count('min. 32.17') == 3
  assert 'min.: accuracy on class1, class2 alone' in text
  html = page.render(results, page.Pictures())
  section = html[html.index('<section id="verdicts">'):].split('</section>')[0]
  assert section.count('32.17 ± 4.56') == 3
  assert 'on class1, class2 alone' in ' '.join(section.split())
  results['config']['minority'] = []
  assert 'min.' not in terminal(results, 80)


def test_verdict_table():
  results = sample(arms=3, classifiers=2)
  arms = results['classifiers']['net1']['arms']
  row = arms['arm2']
  arms['replace_100'] = row | {'real': 44_000, 'synthetic': 45_000}
  text = terminal(results, 80)
  for word in ('net0', 'net1', 'arm2', 'replace_100', 'baseline', ' 60 ',
               '+ 30', ' 44,000 ', '+ 45,000',
               f'{100 * row["mean"]:.2f}',
               words.change(row['difference'], ERROR),
               f'[{words.change(row["low"], ERROR)}, '
               f'{words.change(row["high"], ERROR)}]'):
    assert word in text
  assert max(map(len, text.splitlines())) <= 80
  assert 'too few runs' in terminal(sample(runs=1), 80)


@pytest.mark.parametrize('value, of, want', [
    (.0123, ERROR, '+1.23'), (-.0123, ERROR, '−1.23'),
    (-.00001, ERROR, '0.00'), (0, ERROR, '0.00'), (None, ERROR, '–'),
    (-.01234, NATS, '−0.0123'), (1e-6, NATS, '0.0000'), (None, NATS, '–')])
def test_change(value, of, want):
  assert words.change(value, of) == want


@pytest.mark.parametrize('value, of, want', [
    (.0123, ERROR, '1.23'), (.0123, NATS, '0.0123'), (None, NATS, '–')])
def test_number(value, of, want):
  assert words.number(value, of) == want


@pytest.mark.parametrize('value, want', [
    (.00001, '<0.0001'), (.00123, '0.0012'), (.0499, '0.0499'), (1., '1.000')])
def test_p_value(value, want):
  assert words.p_value(value) == want


def test_weights_are_said_to_be_chosen_where_they_were():
  results, said = sample(), 'Of generators with a curve'
  def text():
    return ' '.join(page.render(results, page.Pictures()).split())
  assert said in text()
  results['generators']['cgan'] |= {'curve': None, 'choice': []}
  assert said not in text()
