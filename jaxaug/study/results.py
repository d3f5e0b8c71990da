"""Everything that a study found, as results.json has it, and where from."""
import collections
import time

import numpy as np

from jaxaug.core import files
from jaxaug.evaluation import confusion
from jaxaug.study import arms, failures, imports, tasks, verdicts
from jaxaug.study.report import pictures
from jaxaug.study.stages import classify, generate, judge
from jaxaug.training import mesh, metrics_log

# A change of what is computed here belongs into its key.
VERSION = 9


def folder(study: tasks.Study) -> files.Folder:
  """Where the results of exactly these tasks stand, with what holes they have.
  """
  key = files.digest([
      VERSION, study.config, [fold.data.key for fold in study.folds],
      [task.key for task in study.all_tasks()]])
  if holes := failures.of_study(study):
    key += f'.{files.digest(holes)}'
  return files.folder(study.workdir / 'results', key)


def forget(place: files.Folder):
  """Removes results of the same tasks with other holes, once `place` is whole.
  """
  key = place.final.name.partition('.')[0]
  for other in place.final.parent.glob(f'{key}*'):
    if other != place.final:
      files.remove(other)


def collect(study: tasks.Study, command: str) -> dict:
  """Returns results.json: every number, and where it comes from.

  Args:
    study: all of whose tasks are done, or failed, or need one that did.
    command: the line that launched it.
  """
  config, first = study.config, study.folds[0].splits.report
  pools = _pools(study)
  classifiers = _classifiers(study, pools)
  seconds, commits, trained = collections.Counter(), set(), set()
  for task in study.all_tasks():
    if not task.done:
      continue
    manifest = task.manifest()
    seconds[task.stage] += manifest['seconds']
    commits.add(manifest['commit'])
    if 'devices' in manifest:
      trained.add(manifest['devices'])
  return {
      'study': config['name'], 'command': command,
      'created': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
      'config': config, 'stamp': files.stamp() | {
          'commits_of_artefacts': sorted(map(str, commits))},
      'devices': ' and '.join(sorted(trained)) or mesh.describe(
          study.machine.devices),
      'seeds': [[config['seed'], run] for run in range(config['runs'])],
      'alpha': config['alpha'], 'data': first | _folds(study),
      'generators': _generators(study, pools), 'pools': pools,
      'classifiers': classifiers,
      'across': verdicts.across(classifiers, config['alpha']),
      'published': verdicts.published(config['published'], classifiers),
      'failures': [{k: failure[k] for k in (
          'unit', 'phase', 'step', 'time', 'why')}
                   for failure in failures.of_study(study)],
      'stages': dict(seconds)}


def _folds(study: tasks.Study) -> dict:
  """What the data entry has beside that of the first fold."""
  reports = [fold.splits.report for fold in study.folds]
  if len(reports) == 1:
    return {}
  return {'folds': [report['digests'] for report in reports],
          'overlaps': {  # Of all folds together.
              key: sum(report['overlaps'][key] for report in reports)
              for key in reports[0]['overlaps']}}


def _pools(study: tasks.Study) -> dict:
  """Returns the entries of all pools, those of a fold by its number.

  'audit', 'quality' and 'obedience' are None where their tasks failed.
  """
  out = {}
  def read(task):
    return task.read() if task.done else None
  for fold, made in zip(study.folds, study.tasks, strict=True):
    judged = [read(task) for task in made['judge'].values()]
    for name, task in made['pool'].items():
      if not task.done:
        continue
      manifest, audited = task.manifest(), read(made['audit'][name])
      keep = ('generator', 'per_class', 'counts', 'selectors', 'drawn',
              'from_real', 'imported')
      imported = manifest['imported']
      if imported:
        imported |= imports.provenance(
            study.config['pools'][name], fold.splits.report['digests'],
            f'config.pools.{name}')
      out[task.title] = {k: manifest[k] for k in keep} | {
          'audit': audited and audited[0],
          'quality': read(made['quality'][name]),
          'obedience': _obedience(task.read(), judged[0],
                                  study.spec.num_classes)}
  return out


def _obedience(pool, judged: judge.Judge | None, classes: int) -> dict | None:
  """Share of samples that the judge assigns to the class asked for."""
  if judged is None:
    return None
  counts = confusion.counts(pool.labels, judged.predict(pool.images).argmax(-1),
                            classes)
  return {'mean': float(np.trace(counts) / counts.sum()),
          'per_class': confusion.share(np.diag(counts), counts.sum(1)),
          'n': int(counts.sum()),
          'judge_test_error': judged.manifest['test_error'],
          'judge_trained_on': judged.manifest['real']}


def _generators(study: tasks.Study, pools: dict) -> dict:
  out, blocks = {}, study.config['generators']
  for fold, made in zip(study.folds, study.tasks, strict=True):
    for name, block in blocks.items():
      tasks_ = generate.of(name, made)
      if not all(task.done for task in tasks_):
        continue
      drawn = [pools[title]['obedience']
               for other, pool in study.config['pools'].items()
               if pool['generator'] == name
               and (title := fold.title(other)) in pools]
      trained = [task.read() for task in tasks_]
      entry = generator(trained[0], block['model'])
      if study.models[name].per_image:
        entry |= _of_images(trained)
      out[fold.title(name)] = entry | {
          'obedience': drawn[0] if drawn else None}
  return out


def _of_images(trained: list) -> dict:
  """Returns what is another in the entry of a model of one image each."""
  manifests = [each.manifest for each in trained]
  return {'seconds': sum(manifest['seconds'] for manifest in manifests),
          'images': len(trained), 'curves': [],
          'reconstruction_rmse': [manifest['reconstruction_rmse']
                                  for manifest in manifests]}


def generator(trained, model: str) -> dict:
  """Returns a generator's entry, but for its obedience.

  Args:
    trained: as stages/generate.py reads it.
    model: a file of generators/.
  """
  manifest = trained.manifest
  names = ('d_loss', 'g_loss', 'd_accuracy_real', 'd_accuracy_fake')
  keep = ('steps', 'parameters', 'seconds', 'curve', 'watched', 'chosen_step',
          'collapsed_at', 'collapsed')
  return {'model': model, **{k: manifest[k] for k in keep},
          'curves': verdicts.curve(trained.records, names),
          'choice': verdicts.curve(trained.records, (
              manifest['curve'], *manifest['watched'].values()))}


def _classifiers(study: tasks.Study, pools: dict) -> dict:
  """Returns the entries of all classifiers; runs stand fold by fold."""
  config, out = study.config, {}
  names = study.folds[0].splits.class_names
  for name, block in config['classifiers'].items():
    runs = {arm.name: [
        made['classify'][classify.task_name(name, arm, run)]
        for made in study.tasks for run in range(config['runs'])]
        for arm in study.arms}
    missing = {arm: why for arm, each in runs.items()
               if (why := _missing(each))}
    entry = verdicts.classifier(
        {arm: [task.read() for task in each] for arm, each in runs.items()
         if arm not in missing},
        {arm.name: arms.describe(arm) for arm in study.arms},
        metric=config['metric'], baseline=config['baseline'],
        against={arm.name: arm.baseline for arm in study.arms if arm.baseline},
        alpha=config['alpha'], classes=study.spec.num_classes,
        folds=len(study.folds), missing=missing,
        minority=tuple(names.index(n) for n in config['minority']))
    for arm in study.arms:
      row = (entry['arms'] | entry['missing'])[arm.name]
      # Mixed into every real one, with partners; a pool may add nothing.
      row['generated'] = bool(arm.pool) and (
          arm.with_partners or row.get('synthetic', 1) > 0)
      if row['generated'] and arm.name in entry['arms']:
        row['copies'] = _copies([pools.get(fold.title(arm.pool))
                                 for fold in study.folds])
    entry['ratios'] = verdicts.ratios(
        [arm for arm in study.arms if arm.name in entry['arms']], entry,
        config['alpha'])
    out[name] = entry | {'model': block['model']}
  return out


def _copies(entries: list[dict | None]) -> dict | None:
  """Says what of a pool nearly repeats training images, the mean over folds.

  Args:
    entries: its own in each fold, of `_pools`.

  Returns:
    'share' of the pool, 'clean', that of clean real images, 'from_real',
    whether its images start from training images, and 'warning', of one that
    somebody else made or that holds test images, or ''; None where nobody
    looked.
  """
  if not all(entry and entry['audit'] for entry in entries):
    return None
  sides = [entry['audit']['train'] for entry in entries]
  # Of folds any one: a hash is of one of their splits at most.
  imported = [entry['imported']['warning'] for entry in entries
              if entry['imported']]
  warnings = [warning for warning in imported if warning][:1]
  for split in ('test', 'validation'):
    if count := sum(entry['audit'].get(split, {'exact': 0})['exact']
                    for entry in entries):
      warnings.append(f'{count} of its images are {split} images')
  return {'warning': '; '.join(warnings),
          'share': float(np.mean([side['share'] for side in sides])),
          'clean': float(np.mean([side['yardstick_share'] for side in sides])),
          'from_real': any(entry['from_real'] for entry in entries)}


def _missing(runs: list[tasks.Task]) -> str | None:
  """Says why an arm lacks runs; None where it does not."""
  causes = [why for task in runs if (why := failures.cause(task))]
  return (f'lacks {len(causes)} of {len(runs)} runs: {causes[0]}' if causes
          else None)


def write(place: files.Folder, results: dict):
  """Writes results.json, and verdicts and confusion for TensorBoard."""
  files.begin(place.partial)
  files.write_json(place.partial / 'results.json', results)
  writer = metrics_log.writer(place.partial)
  for name, entry in results['classifiers'].items():
    for arm, row in entry['arms'].items():
      writer.image(row['steps'], f'confusion/{name}/{arm}',
                   pictures.heatmap(row['confusion']))
      writer.scalars(row['steps'], {
          f'{metric}/{name}/{arm}': measured['mean']
          for metric, measured in row['metrics'].items()
          if measured['mean'] is not None})
  writer.close()
  files.finish(place.partial, place.final, {'study': results['study']})
