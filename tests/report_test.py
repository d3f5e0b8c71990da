"""The report page and the terminal table, from made-up results."""
import html.parser
import io
import json
import pathlib
import re

import numpy as np
import pytest

from jaxaug import stats
from jaxaug.stages import report

VOID = {'meta', 'img', 'br', 'path', 'use', 'rect', 'circle', 'line'}


def sample(arms=4, runs=5, classifiers=1, classes=3, generators=('cgan',),
           channels=1, prefix=''):
  """Returns results in the schema of results.json; odd arms are synthetic."""
  rng = np.random.default_rng(0)
  names = [f'{prefix}class{k}' for k in range(classes)]
  out = {
      'study': f'{prefix}study', 'command': f'python launch.py {prefix}',
      'created': '2026-01-02T03:04:05', 'alpha': .05,
      'config': {'seed': 0, 'data': {'name': f'{prefix}data', 'resize': None}},
      'stamp': {'commit': 'abc', 'jax': '0.10.2'}, 'devices': '1 cpu',
      'seeds': list(range(runs)), 'stages': {'data': 1.5, 'classify': 3700.},
      'data': {'name': f'{prefix}data', 'class_names': names,
               'shape': [8, 6, channels], 'digests': {'train': 'ff'},
               'overlaps': {'train_test': 0},
               'counts': {s: [20] * classes
                          for s in ('train', 'validation', 'test')}},
      'pools': {g: {'generator': g, 'per_class': 9, 'copies_of_train': 0,
                    'copies_of_test': 0} for g in generators},
      'generators': {
          g: {'model': 'cgan', 'steps': 9, 'seconds': 61.,
              'parameters': {'g': 1234, 'd': 567},
              'obedience': {'mean': .8, 'per_class': [.8] * classes, 'n': 27,
                            'judge_test_error': .1, 'judge_trained_on': 60},
              'curves': [{'step': s, 'd_loss': 1., 'g_loss': 2.,
                          'd_accuracy_real': .5, 'd_accuracy_fake': .6}
                         for s in range(9)]} for g in generators},
      'classifiers': {}}
  for c in range(classifiers):
    errors = {f'{prefix}arm{i}': list(.3 - .02 * i +
                                      rng.normal(0, .004, runs))
              for i in range(arms)}
    rows = stats.compare(errors, f'{prefix}arm0')
    for i, (arm, row) in enumerate(rows.items()):
      row |= {
          'description': f'{prefix}adding {i}', 'real': 60,
          'synthetic': 30 * (i % 2), 'errors': errors[arm], 'seconds': 2.,
          'per_class_error': [row['mean']] * classes,
          'confusion': (np.eye(classes, dtype=int) * 9 + 1).tolist(),
          'curves': [[{'step': s, 'validation_error': .9 - .1 * s,
                       'train_loss': 1.} for s in range(5)]
                     for _ in range(runs)]}
    out['classifiers'][f'{prefix}net{c}'] = {
        'model': 'cnn', 'steps': 100, 'parameters': 1000, 'metric': 'error',
        'baseline': f'{prefix}arm0', 'arms': rows}
  return json.loads(json.dumps(out))


def grid(classes=3, channels=1, size=(8, 6), count=5, seed=0):
  shape = (classes, count, *size, channels)
  return tuple(np.random.default_rng(seed + i).integers(
      0, 256, shape, np.uint8) for i in range(2))


class Page(html.parser.HTMLParser):
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


def check(results, grids=None):
  """Renders, parses and checks what every page must hold."""
  text = report.page(results, grids or {})
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
  order = ['Does generated data help', 'Verdicts', 'Test error by arm',
           'Learning curves', 'Test error by class', 'Confusion matrices',
           'Real and generated images', 'Generators', 'Obedience by class',
           'Settings and timings', 'How to read this']
  at = -1
  for title in order:
    at = page.text.index(title, at + 1)
  row = results['classifiers']['net0']['arms']['arm3']
  assert f'{100 * row["mean"]:.2f} ±' in page.text
  assert f'−{abs(100 * row["difference"]):.2f}' in page.text
  assert '80.0 %' in page.text and '1 h 02 min' in page.text
  assert 'lowest mean validation error' in page.text


def test_every_figure_is_drawn():
  page = check(sample(arms=4, classifiers=2), {'cgan': grid()})
  # Two interval figures and four curves a classifier, two of the generator.
  assert page.tags.count('svg') == 2 * (2 + 4) + 2
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
    row['curves'] = [[] for _ in row['errors']]
    row['description'] = ''
  page = check(results)
  assert 'not measured' in page.text and 'No validation error' in page.text
  assert 'lowest mean test error' in page.text
  del results['generators'], results['pools']
  check(results)


def test_equal_errors_everywhere():
  results = sample()
  for row in results['classifiers']['net0']['arms'].values():
    row['errors'] = [0.] * 5
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
  got = report.answer(results, .05)
  assert got['sentence'] == ('Generated images help in 1 and hurt in 1 of the '
                             '2 arms that have them')
  assert got['verdict'] == 'depends on the arm'
  assert [line[0] for line in got['lines']] == ['hurts', 'helps']
  results['arms']['arm1']['verdict'] = 'no evidence'
  assert report.answer(results, .05)['verdict'] == 'depends on the arm'
  results['arms']['arm1']['verdict'] = 'helps'
  assert report.answer(results, .05)['verdict'] == 'helps'
  assert len(got['plain']) == 2
  assert report.stronger_plain(results) == 'arm4'
  results['arms']['arm3']['mean'] = .01
  assert report.stronger_plain(results) is None


def test_cautions():
  results = sample(runs=2)
  results['data']['overlaps'] = {'train_test': 3, 'train_validation': 0}
  results['pools']['cgan']['copies_of_test'] = 1
  text = ' '.join(report.cautions(results))
  assert '2 paired runs' in text and '(train_test): 3' in text
  assert '1 exact copy of test' in text and 'train_validation' not in text
  assert not report.cautions(sample())


def test_best_is_chosen_on_validation():
  classifier = sample(arms=3)['classifiers']['net0']
  assert classifier['arms']['arm1']['mean'] > classifier['arms']['arm2']['mean']
  for run in classifier['arms']['arm1']['curves']:
    run[2]['validation_error'] = .001
  assert report.best(classifier) == ('arm1', 'lowest mean validation error')
  assert report.best(sample(arms=1)['classifiers']['net0']) is None


@pytest.mark.parametrize('channels', [1, 3])
def test_grids_keep_their_pixels(channels):
  import base64

  from PIL import Image
  real, fake = grid(channels=channels)
  rows = report.strips({'cgan': (real, fake)})['cgan']
  for k, pair in enumerate(rows):
    for images, uris in zip((real, fake), pair, strict=True):
      for image, uri in zip(images[k], uris, strict=True):
        data = io.BytesIO(base64.b64decode(uri.split(',')[1]))
        got = np.asarray(Image.open(data)).reshape(image.shape)
        np.testing.assert_array_equal(got, image)


def test_large_grids_stay_small():
  results = sample(classes=40, generators=('a', 'b', 'c'), channels=3)
  one = grid(40, 3, (96, 160), 8)
  page = check(results, dict.fromkeys('abc', one))
  assert 'The first 20 of 40 classes' in ' '.join(page.text.split())


def test_same_results_give_the_same_page():
  assert report.page(sample(), {}) == report.page(sample(), {})


def test_write(tmp_path):
  report.write(sample(), {'cgan': grid()}, tmp_path / 'report.html')
  assert [f.name for f in tmp_path.iterdir()] == ['report.html']
  assert (tmp_path / 'report.html').read_text('utf-8').startswith('<!doctype')


def test_no_pyplot_and_no_tensorflow():
  import subprocess
  import sys
  code = ('import sys; from jaxaug.stages import report; '
          'assert "matplotlib" not in sys.modules; '
          'report._axes(99, 99); '
          'print([m for m in ("matplotlib.pyplot", "tensorflow") '
          'if m in sys.modules])')
  got = subprocess.run([sys.executable, '-c', code], capture_output=True,
                       text=True, check=True,
                       cwd=pathlib.Path(__file__).parents[1])
  assert got.stdout.strip() == '[]'


def terminal(results, width):
  import rich.console
  console = rich.console.Console(file=io.StringIO(), width=width)
  console.print(report.verdict_table(results))
  return console.file.getvalue()


def test_verdict_table():
  results = sample(arms=3, classifiers=2)
  text = terminal(results, 80)
  row = results['classifiers']['net1']['arms']['arm2']
  for word in ('net0', 'net1', 'arm2', 'baseline', '60 + 30',
               f'{100 * row["mean"]:.2f}', report.points(row['difference']),
               f'[{report.points(row["low"])}, {report.points(row["high"])}]'):
    assert word in text
  assert max(map(len, text.splitlines())) <= 80
  assert 'too few runs' in terminal(sample(runs=1), 80)


@pytest.mark.parametrize('value, want', [
    (.0123, '+1.23'), (-.0123, '−1.23'), (-.00001, '0.00'), (0, '0.00'),
    (None, '–')])
def test_points(value, want):
  assert report.points(value) == want


@pytest.mark.parametrize('value, want', [
    (.00001, '<0.0001'), (.00123, '0.0012'), (.0499, '0.0499'), (1., '1.000')])
def test_p_value(value, want):
  assert report.p_value(value) == want


@pytest.mark.parametrize('value, want', [
    (4.21, '4.2 s'), (200, '3 min 20 s'), (3599.9, '1 h 00 min'),
    (3725, '1 h 02 min'), (None, '–')])
def test_duration(value, want):
  assert report.duration(value) == want
