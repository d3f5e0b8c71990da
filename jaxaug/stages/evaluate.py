"""Stage 6: predictions and pools become numbers and verdicts."""
import numpy as np

from jaxaug import artefacts, errors, logs, registry, stats, types


def confusion(labels: np.ndarray, predicted: np.ndarray,
              classes: int) -> np.ndarray:
  """Counts int64 [K, K]: row is the true class, column the predicted one."""
  flat = np.bincount(labels * classes + predicted, minlength=classes**2)
  return flat.reshape(classes, classes)


def _share(numerator, denominator) -> list:
  """Element by element; None where there is nothing to divide by."""
  return [float(a / b) if b else None
          for a, b in zip(numerator, denominator, strict=True)]


def obedience(pool: types.Split, logits: np.ndarray,
              classes: int) -> dict:
  """Share of samples that the judge assigns to the class asked for."""
  counts = confusion(pool.labels, logits.argmax(-1), classes)
  return {'mean': float(np.trace(counts) / counts.sum()),
          'per_class': _share(np.diag(counts), counts.sum(1)),
          'n': int(counts.sum())}


def _run(folder: artefacts.Folder, metric, classes: int) -> dict:
  """Returns the numbers of one finished run."""
  manifest = artefacts.manifest(folder.final)
  arrays = artefacts.load_npz(folder.final / 'predictions.npz')
  logits, labels = arrays['logits'], arrays['labels']
  return manifest | {
      'value': metric.compute(metric.update(None, logits, labels)),
      'confusion': confusion(labels, logits.argmax(-1), classes),
      'curve': logs.read(folder.final)}


def _curve(records, names) -> list[dict]:
  """Joins records of one step; keeps the steps that have the first name."""
  steps = {}
  for record in records:
    steps.setdefault(record['step'], {}).update(record)
  return [{'step': step} | {k: r[k] for k in names if k in r}
          for step, r in sorted(steps.items()) if names[0] in r]


def _arm(description: str, runs: list[dict]) -> dict:
  total = sum(r['confusion'] for r in runs)
  first = runs[0]
  return {
      'description': description, 'real': first['real'],
      'synthetic': first['synthetic'],
      'errors': [r['value'] for r in runs],
      'chosen_steps': [r['chosen_step'] for r in runs],
      'validation_errors': [r['validation_error'] for r in runs],
      'per_class_error': _share(total.sum(1) - np.diag(total), total.sum(1)),
      'confusion': total.tolist(),
      'curves': [_curve(r['curve'], ('validation_error', 'train_loss'))
                 for r in runs],
      'seconds': sum(r['seconds'] for r in runs)}


def classifier(folders: dict[str, list[artefacts.Folder]],
               descriptions: dict[str, str], *, metric: str, baseline: str,
               against: dict[str, str], alpha: float, classes: int) -> dict:
  """Returns a classifier's entry of results.json: every arm and its verdict.

  Args:
    folders: arm -> the finished runs, the same runs in all arms.
    descriptions: arm -> its line for the reader.
    metric: a file of metrics/.
    baseline: the arm that the others are compared with,
    against: but for these: arm -> the arm that it is compared with.
    alpha: level of the tests.
    classes: number of classes.
  """
  block = registry.find('metrics', metric, 'config.metric')
  arms = {}
  for arm, places in folders.items():
    runs = [_run(place, block, classes) for place in places]
    arms[arm] = _arm(descriptions[arm], runs)
  compared = stats.compare({arm: entry['errors'] for arm, entry in
                            arms.items()}, baseline, alpha,
                           block.LOWER_IS_BETTER, against)
  # The network is the same in every arm and run.
  return {k: runs[0][k] for k in ('model', 'steps', 'parameters')} | {
      'baseline': baseline, 'metric': metric,
      'arms': {arm: arms[arm] | compared[arm] for arm in arms}}


def generator(folder: artefacts.Folder, model: str) -> dict:
  """Returns a generator's entry of results.json, but for its obedience."""
  manifest = artefacts.manifest(folder.final)
  names = ('d_loss', 'g_loss', 'd_accuracy_real', 'd_accuracy_fake')
  return {'model': model, 'steps': manifest['steps'],
          'parameters': manifest['parameters'],
          'seconds': manifest['seconds'],
          'curves': _curve(logs.read(folder.final), names)}


def overlap(data_digest: str, manifest: dict, name: str):
  """Refuses a pool whose generator saw another training split."""
  if manifest['train_digest'] != data_digest:
    raise errors.InputError(
        f'pool {name}: its generator learned from other training images than '
        "this study's; expected the same split. Delete its folder.")


def picture(counts) -> np.ndarray:
  """A confusion matrix as uint8 [H, W, 1]: dark is a large share of a row."""
  counts = np.asarray(counts, float)
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  cell = max(1, 320 // len(counts))
  pixels = np.rint(255 * (1 - share)).astype(np.uint8)
  return np.kron(pixels, np.ones((cell, cell), np.uint8))[..., None]


def write(folder: artefacts.Folder, results: dict):
  """Writes results.json, and verdicts and confusion for TensorBoard."""
  artefacts.begin(folder.partial)
  artefacts.write_json(folder.partial / 'results.json', results)
  writer = logs.writer(folder.partial)
  for name, entry in results['classifiers'].items():
    for arm, row in entry['arms'].items():
      writer.image(entry['steps'], f'confusion/{name}/{arm}',
                   picture(row['confusion']))
      writer.scalars(entry['steps'], {f'{entry["metric"]}/{name}/{arm}':
                                      row['mean']})
  writer.close()
  artefacts.finish(folder.partial, folder.final, {'study': results['study']})
