"""A study from its config to its report; what is done is skipped."""
import collections
import contextlib
import pathlib
import tempfile
import time

import numpy as np

from jaxaug.core import files, interrupts
from jaxaug.data import images
from jaxaug.study import plan as units
from jaxaug.study import results as evaluate
from jaxaug.study import schema
from jaxaug.study.report import html
from jaxaug.study.stages import audit, classify, generate, pool, quality
from jaxaug.training import mesh

STAGES = ('data', 'generate', 'pool', 'judge', 'audit', 'classify', 'evaluate',
          'report')
# A change of what the evaluation computes belongs into its hash.
_VERSION = 5


def _obedience(opened: units.Study, unit: units.Unit,
               judge: units.Unit) -> dict:
  """How many samples of a pool show the class that was asked for."""
  drawn = pool.read(unit.folder)
  logits = classify.predict(judge.folder, units.judge_network(opened), drawn)
  verdict = files.manifest(judge.folder.final)
  return evaluate.obedience(drawn, logits, opened.spec.num_classes) | {
      'judge_test_error': verdict['test_error'],
      'judge_trained_on': verdict['real']}


def _named(part: units.Part, stage: str) -> dict[str, units.Unit]:
  return {unit.name: unit for unit in part.units if unit.stage == stage}


def _pools(opened: units.Study) -> dict:
  """Returns the entries of all pools, those of a fold by its number."""
  out = {}
  for part in opened.parts:
    judge = _named(part, 'judge').get(units.JUDGE)
    audits, measured = _named(part, 'audit'), _named(part, 'evaluate')
    for name, unit in _named(part, 'pool').items():
      manifest = files.manifest(unit.folder.final)
      keep = ('generator', 'per_class', 'selector', 'drawn')
      out[_title(opened, part, name)] = {k: manifest[k] for k in keep} | {
          'audit': audit.read(audits[name].folder)[0],
          'quality': quality.read(measured[name].folder),
          'obedience': _obedience(opened, unit, judge)}
  return out


def _title(opened: units.Study, part: units.Part, name: str) -> str:
  return f'{name}, fold {part.number}' if len(opened.parts) > 1 else name


def _generators(opened: units.Study, pools: dict) -> dict:
  out = {}
  for part in opened.parts:
    for name, unit in _named(part, 'generate').items():
      drawn = [pools[_title(opened, part, other)]['obedience']
               for other, block in opened.config['pools'].items()
               if block['generator'] == name]
      out[_title(opened, part, name)] = evaluate.generator(
          unit.folder, opened.config['generators'][name]['model']) | {
              'obedience': drawn[0] if drawn else None}
  return out


def _classifiers(opened: units.Study) -> dict:
  """Returns the entries of all classifiers; runs stand fold by fold."""
  config, out = opened.config, {}
  names = opened.parts[0].splits.class_names
  done = [_named(part, 'classify') for part in opened.parts]
  for name in config['classifiers']:
    out[name] = evaluate.classifier(
        {arm['name']: [of[f'{name}.{arm["name"]}.{run}'].folder
                       for of in done for run in range(config['runs'])]
         for arm in config['arms']},
        {arm['name']: schema.describe(arm) for arm in config['arms']},
        metric=config['metric'], baseline=config['baseline'],
        against={arm['name']: arm['baseline'] for arm in config['arms']
                 if arm.get('baseline')},
        alpha=config['alpha'], classes=opened.spec.num_classes,
        folds=len(opened.parts),
        minority=tuple(names.index(n) for n in config['minority']))
    for arm in config['arms']:
      row = out[name]['arms'][arm['name']]
      row['generated'] = row['synthetic'] > 0 or (
          arm.get('partner') == 'synthetic')  # Mixed into every real one.
    out[name]['ratios'] = evaluate.ratios(config['arms'], out[name],
                                          config['alpha'])
  return out


def _results(opened: units.Study, command: str, devices) -> dict:
  """Returns results.json: every number, and where it comes from."""
  config, first = opened.config, opened.parts[0].manifest
  pools, classifiers = _pools(opened), _classifiers(opened)
  seconds, commits, trained = collections.Counter(), set(), set()
  for part in opened.parts:
    seconds['data'] += part.manifest['seconds']
    commits.add(part.manifest['commit'])
  for unit in opened.units:
    manifest = files.manifest(unit.folder.final)
    seconds[unit.stage] += manifest['seconds']
    commits.add(manifest['commit'])
    if 'devices' in manifest:
      trained.add(manifest['devices'])
  return {
      'study': config['name'], 'command': command,
      'created': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
      'config': config, 'stamp': files.stamp() | {
          'commits_of_artefacts': sorted(map(str, commits))},
      'devices': ' and '.join(sorted(trained)) or mesh.describe(devices),
      'seeds': [[config['seed'], run] for run in range(config['runs'])],
      'alpha': config['alpha'], 'data': first | ({
          'folds': [part.manifest['digests'] for part in opened.parts],
          'overlaps': {  # Of all folds together.
              key: sum(part.manifest['overlaps'][key] for part in opened.parts)
              for key in first['overlaps']}}
          if len(opened.parts) > 1 else {}),
      'generators': _generators(opened, pools), 'pools': pools,
      'classifiers': classifiers,
      'across': evaluate.across(classifiers, config['alpha']),
      'published': evaluate.published(config['published'], classifiers),
      'stages': dict(seconds)}


def _pictures(opened: units.Study, most: int = 8) -> tuple[dict, dict, dict]:
  """Returns, of every pool, (real, fake) uint8 [K, M, H, W, C] and the pairs
  of its audit; and of every generator with a latent space its interpolation."""
  def rows(split):
    per = [np.flatnonzero(split.labels == k) for k in
           range(opened.spec.num_classes)]
    count = min(most, *map(len, per))
    return np.stack([split.images[p[:count]] for p in per])
  grids, pairs, between = {}, {}, {}
  for part in opened.parts:
    for name, unit in _named(part, 'generate').items():
      if (file := unit.folder.final / generate.INTERPOLATION).exists():
        between[_title(opened, part, name)] = images.decode(file)
    audits = _named(part, 'audit')
    for name, unit in _named(part, 'pool').items():
      title = _title(opened, part, name)
      grids[title] = rows(part.splits.train), rows(pool.read(unit.folder))
      pairs[title] = audit.read(audits[name].folder)[1]
  return grids, pairs, between


def _work(opened: units.Study, last: str):
  """Does every unit up to the stage `last` that is not done."""
  stages = STAGES[:STAGES.index(last) + 1]
  for unit in opened.units:
    interrupts.check()
    if unit.stage not in stages:
      continue
    if not files.is_done(unit.folder.final):
      unit.work()
    if unit.stage == 'audit':  # A gate: also where it was done before.
      audit.gate(audit.read(unit.folder)[0], unit.name, unit.folder,
                 **opened.config['audit'])


def evaluation(opened: units.Study) -> files.Folder:
  """Where the results of exactly these units stand."""
  key = files.digest([
      _VERSION, opened.config, [part.data.final.name for part in opened.parts],
      [unit.folder.final.name for unit in opened.units]])
  return files.folder(opened.workdir / 'evaluate', key)


def _conclude(opened: units.Study, command: str, devices, stage: str) -> dict:
  """Writes results.json and report.html where their inputs have changed."""
  folder = evaluation(opened)
  if not files.is_done(folder.final):
    evaluate.write(folder, _results(opened, command, devices))
  results = files.read_json(folder.final / 'results.json')
  page = folder.final / 'report.html'
  if stage == 'report' and not page.exists():
    grids, pairs, between = _pictures(opened)
    html.write(results, grids, page, pairs, between)
  # What the user looks for stands at the top, of the latest launch.
  for file in ('results.json', 'report.html'):
    if (folder.final / file).exists():
      files.copy(folder.final / file, opened.workdir / file)
    else:  # That of an earlier launch would mislead.
      (opened.workdir / file).unlink(missing_ok=True)
  return results


def _devices(config: dict):
  """Returns the mesh that every batch of the study can be split over."""
  blocks = (*config['generators'].values(), *config['classifiers'].values(),
            config['judge'])
  return mesh.make(batch_sizes=[
      block['batch_size'] // block.get('accumulate', 1) or 1
      for block in blocks])


@contextlib.contextmanager
def plan(config: dict, workdir: pathlib.Path):
  """Yields the study of a launch, nothing done; new data in a scratch."""
  schema.check(config)
  with tempfile.TemporaryDirectory() as scratch:
    yield units.open_study(config, workdir, _devices(config),
                           pathlib.Path(scratch))


def run(config: dict, workdir, *, stage: str = 'all', command: str = ''):
  """Runs a study up to `stage` and returns its results, or None before them.

  Args:
    config: plain dict; see configs/common.py.
    workdir: made if absent; holds every artefact.
    stage: one of STAGES, or 'all'; earlier stages that are not done come first.
    command: the line that launched it, for the report.

  Raises:
    InputError: something in the config, the data or the workdir is wrong, or
      a pool leaks the test split.
    signals.Interrupted: asked to stop; all is saved.
  """
  last = 'report' if stage == 'all' else stage
  schema.check(config)
  workdir = pathlib.Path(workdir)
  with files.lock(workdir, config['name']):
    devices = _devices(config)
    opened = units.open_study(config, workdir, devices)
    files.write_json(workdir / 'config.json', config)
    _work(opened, last)
    if last in ('evaluate', 'report'):
      return _conclude(opened, command, devices, last)
  return None
