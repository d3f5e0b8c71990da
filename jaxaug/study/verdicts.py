"""Predictions of runs become numbers of arms, and differences verdicts."""
import math

import numpy as np

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import confusion, measure, stats
from jaxaug.study import arms


def metrics(metric: str, minority: tuple) -> dict:
  """Returns name -> file of metrics/, without those that lack their classes.

  Raises:
    InputError: `metric`, by which the study judges, is not among them.
  """
  blocks = measure.blocks(registry.names('metrics'), kind='metrics')
  registry.find('metrics', metric, 'config.metric')
  kept = {name: block for name, block in blocks.items()
          if minority or 'classes' not in block.NEEDS}
  if metric not in kept:
    raise errors.InputError(
        f'config.metric: {metric!r} needs classes to look at; expected '
        'config.minority to name some, or another metric.')
  return kept


def _value(name: str, block, logits, labels, minority) -> float | None:
  """Returns a metric of one run; None where it is not defined."""
  given = {'classes': minority} if 'classes' in block.NEEDS else {}
  value = block.compute(logits, labels, **given)[name].value
  return value if math.isfinite(value) else None


def curve(records, names) -> list[dict]:
  """Joins records of one step; keeps the steps that have the first name.

  None stands for what was not finite, which JSON does not know.
  """
  steps = {}
  for record in records:
    steps.setdefault(record['step'], {}).update(record)
  return [{'step': step} | {k: r[k] if math.isfinite(r[k]) else None
                            for k in names if k in r}
          for step, r in sorted(steps.items()) if names[0] in r]


def _over_folds(values, folds: int) -> list:
  """One number a fold, the mean of its runs; one a run where folds is 1."""
  return (np.reshape(values, (folds, -1)).mean(1).tolist() if folds > 1
          else list(values))


def _words(number: types.Number) -> dict:
  """Returns a number's words as they stand in results.json."""
  return {'label': number.label, 'percent': number.unit == '%',
          'lower_is_better': number.lower_is_better}


def _summary(number: types.Number, values: list, folds: int) -> dict:
  """Returns a metric's words, its number of each run, and their mean."""
  summary = {'mean': None, 'std': None, 'n': 0} if None in values else (
      stats.summary(_over_folds(values, folds)))
  return {**_words(number), **summary, 'values': values}


def _run(run, blocks: dict, classes: int, minority: tuple[int, ...]) -> dict:
  """Returns the numbers of one finished run, see stages/classify.py."""
  predicted = run.logits.argmax(-1)
  return run.manifest | {
      'values': {name: _value(name, block, run.logits, run.labels, minority)
                 for name, block in blocks.items()},
      'labels': run.labels, 'wrong': predicted != run.labels,
      'confusion': confusion.counts(run.labels, predicted, classes),
      'curve': run.records}


def _arm(description: str, runs: list[dict], blocks: dict, metric: str,
         folds: int) -> dict:
  total = sum(r['confusion'] for r in runs)
  first = runs[0]
  metrics = {name: _summary(block.VALUES[name],
                            [r['values'][name] for r in runs], folds)
             for name, block in blocks.items()}
  return {
      'description': description, 'real': first['real'],
      'synthetic': first['synthetic'], 'steps': first['steps'],
      'values': metrics[metric]['values'], 'metrics': metrics,
      'chosen_steps': [r['chosen_step'] for r in runs],
      'validation_errors': [r['validation_error'] for r in runs],
      'per_class_error': confusion.share(total.sum(1) - np.diag(total),
                                         total.sum(1)),
      'per_class': confusion.per_class(total), 'confusion': total.tolist(),
      'curves': [curve(r['curve'], ('validation_error', 'train_loss'))
                 for r in runs],
      'seconds': sum(r['seconds'] for r in runs)}


def _mcnemar(arm: list[dict], other: list[dict]) -> list[dict]:
  """Compares two arms image by image, run by run."""
  for a, b in zip(arm, other, strict=True):
    if not np.array_equal(a['labels'], b['labels']):
      raise errors.InputError(
          f'run {a["run"]}: two arms were tested on other images; expected '
          'the same. Delete their folders in classify/.')
  return [stats.mcnemar(a['wrong'], b['wrong'])
          for a, b in zip(arm, other, strict=True)]


def classifier(finished: dict[str, list], descriptions: dict[str, str], *,
               metric: str, baseline: str, against: dict[str, str],
               alpha: float, classes: int, folds: int = 1,
               minority: tuple[int, ...] = (),
               missing: dict[str, str] | None = None) -> dict:
  """Returns a classifier's entry of results.json: every arm and its verdict.

  Args:
    finished: arm -> its runs as stages/classify.py reads them, the same runs in
      all arms; fold by fold, as many runs in each.
    descriptions: arm -> its line for the reader.
    metric: a file of metrics/; what the verdict is about.
    baseline: the arm that the others are compared with,
    against: but for these: arm -> the arm that it is compared with.
    alpha: level of the tests.
    classes: number of classes.
    folds: parts of a cross-validation; 1 for one test split.
    minority: numbers of the classes that minority_accuracy looks at.
    missing: arm -> why it lacks runs. It gets no verdict, for those that ended
      are not any runs; nor does an arm that is compared with it.

  Returns:
    Its words and facts; 'arms', name -> row, and 'missing', name -> 'why':
    those of `missing`, and arms with predictions that are not finite or for
    which `metric` is not defined.
  """
  blocks = metrics(metric, minority)
  failed, missing = bool(missing), dict(missing or {})
  runs = {arm: [_run(run, blocks, classes, minority) for run in each]
          for arm, each in finished.items()}
  for arm, each in finished.items():
    for i, run in enumerate(each):
      if not np.isfinite(run.logits).all():
        # They would all be of the first class, and a number like any other.
        failed = missing[arm] = f'predictions of run {i} are not finite'
  rows = {arm: _arm(descriptions[arm], each, blocks, metric, folds)
          for arm, each in runs.items() if arm not in missing}
  for arm, entry in rows.items():
    if None in entry['values']:
      missing[arm] = (f'{metric} of run {entry["values"].index(None)} is not a '
                      'number')
  if rows and not failed and missing.keys() >= rows.keys():
    arm = next(iter(rows))
    raise errors.InputError(
        f'config.metric: {missing[arm]} in the arm {arm!r}, nor in any other; '
        'expected trainings that do not diverge (a lower learning_rate), and '
        'images of every class that the metric looks at.')
  rows = {arm: row for arm, row in rows.items() if arm not in missing}
  number = blocks[metric].VALUES[metric]
  compared = stats.compare({arm: entry['values'] for arm, entry in
                            rows.items()}, baseline, alpha,
                           number.lower_is_better, against, folds,
                           missing=missing)
  for arm, row in compared.items():
    rows[arm] |= row | {'mcnemar': None if row['difference'] is None else
                        _mcnemar(runs[arm], runs[row['baseline']])}
  # The network is the same in every arm and run.
  first = next(iter(runs.values()))[0] if rows else {}
  return {k: first.get(k) for k in ('model', 'parameters', 'steps')} | {
      'baseline': baseline, 'metric': metric, **_words(number),
      'folds': folds, 'arms': rows,
      'missing': {arm: {'why': why} for arm, why in missing.items()}}


def across(classifiers: dict, alpha: float) -> dict:
  """Combines each arm's differences over two classifiers or more.

  Args:
    classifiers: name -> what `classifier` returned, all of the same study.
    alpha: intervals cover 1 - alpha.

  Returns:
    arm that all of them compare -> what stats.mixed gives, and p_corrected,
    Holm's over all arms; {} for a single classifier.
  """
  if len(classifiers) < 2:
    return {}
  first = next(iter(classifiers.values()))
  folds = first['folds']
  out = {}
  for arm, row in first['arms'].items():
    if all(arm in c['arms'] and c['arms'][arm]['difference'] is not None
           for c in classifiers.values()):
      out[arm] = stats.mixed({
          name: _over_folds(np.subtract(
              c['arms'][arm]['values'],
              c['arms'][row['baseline']]['values']), folds)
          for name, c in classifiers.items()}, alpha,
                             stats.test_share(folds))
  corrected = stats.holm(
      [row['p'] for row in out.values()],
      len({*first['arms'], *first['missing']} - {first['baseline']}))
  return {arm: row | {'p_corrected': p}
          for (arm, row), p in zip(out.items(), corrected, strict=True)}


def ratios(chosen: tuple[arms.Arm, ...], entry: dict,
           alpha: float) -> list[dict]:
  """Orders arms that differ in their ratio alone, so that it can be drawn.

  Args:
    chosen: the arms of the study.
    entry: what `classifier` returned of them.
    alpha: intervals cover 1 - alpha.

  Returns:
    For every pool and treatment (augmentation, mixture, loss) of which one
    kind of use has two ratios or more: 'pool', 'plain' (the arm of real images
    alone under the treatment, which has the ratio 0; or None) and 'lines',
    'replace' or 'add' -> points by rising ratio, each with arm, ratio, n,
    mean, and low and high (the mean's interval; None for one run).
  """
  groups, plain = {}, {}
  for arm in chosen:
    if found := arm.ratio:
      kinds = groups.setdefault((arm.pool, arm.treatment), {})
      kinds.setdefault(found[0], {}).setdefault(found[1], arm.name)
    elif not arm.pool and not arm.oversample:
      plain.setdefault(arm.treatment, arm.name)
  out, folds = [], entry['folds']
  def point(ratio, arm):
    values = _over_folds(entry['arms'][arm]['values'], folds)
    mean = stats.paired(values, np.zeros(len(values)), alpha,
                        stats.test_share(folds))
    return {'arm': arm, 'ratio': ratio, 'mean': mean['difference']} | {
        k: mean[k] for k in ('low', 'high', 'n')}
  for (pool, treatment), kinds in groups.items():
    zero = plain.get(treatment)
    lines = {kind: [point(*at) for at in sorted(
        (({0.0: zero} if zero else {}) | found).items())]
             for kind, found in kinds.items() if len(found) > 1}
    if lines:
      out.append({'pool': pool, 'plain': zero, 'lines': lines})
  return out


def published(figures: list[dict], classifiers: dict) -> list[dict]:
  """Sets published figures beside the study's own.

  Args:
    figures: config.published.
    classifiers: name -> what `classifier` returned.

  Returns:
    Each figure with 'label' and 'percent' of its metric, and 'ours': mean, std
    and n, or None and 0 where the arm is missing.
  """
  out = []
  for figure in figures:
    metric = figure['metric']
    number = registry.find('metrics', metric).VALUES[metric]
    arm = classifiers[figure['classifier']]['arms'].get(figure['arm'])
    ours = arm['metrics'][metric] if arm else {'mean': None, 'std': None,
                                               'n': 0}
    out.append(figure | {k: _words(number)[k] for k in ('label', 'percent')} | {
        'ours': {k: ours[k] for k in ('mean', 'std', 'n')}})
  return out
