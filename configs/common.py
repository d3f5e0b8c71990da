"""Every default, once. A config file edits what `base` returns."""
from ml_collections import config_dict


def base() -> config_dict.ConfigDict:
  """Returns the defaults of a study; docs/config.md is made of these lines."""
  config = _section()
  config.name = ''            # Set by the file; names the work folder.
  config.seed = 0             # Of everything: splits, weights, batches, pools.
  config.runs = 5             # Paired runs of every arm and classifier.
  config.metric = 'error'     # A file of metrics/; what the verdict is about.
  config.minority = ()        # Names of classes that minority_accuracy is of.
  config.baseline = 'real'    # The arm that the others are compared with.
  config.alpha = 0.05         # Level of the tests, after correction.
  config.budget = 'steps'     # What is alike in all arms: optimizer steps,
                              # 'epochs', or 'compute' with the generator's.
  config.log_every = 50       # Steps between records of a training.
  config.save_every = 500     # Steps between checkpoints.
  config.sample_every = 200   # Steps between grids of samples.
  config.eval_every = 50      # Steps between looks at the validation split.
  config.runs_at_once = 'auto'  # The runs of an arm in one program: 'yes',
                              # 'no', or 'auto', on accelerators.
  config.steps_per_call = 0   # Of one dispatch, at most; 0: 1 on CPU, else 10.

  config.data = _section()
  config.data.source = 'fashion_mnist_small'  # A file of data/datasets/.
  config.data.path = None           # Files: where they lie.
  config.data.name = None           # tfds: the set's name.
  config.data.resize = None         # Pixels, or (height, width).
  config.data.crop = None           # Central crop before it, likewise.
  config.data.per_class = None      # Low-data subset: images a class.
  config.data.fraction = None       # Instead: a share of every class.
  config.data.classes = None        # Names or numbers of the classes to keep.
  config.data.imbalance = None      # Counts a class, or ('exponential', 10).
  config.data.val_fraction = 0.2    # Of the subset, for selection.
  config.data.test_fraction = None  # Where a source has no test split.
  config.data.folds = None          # Cross-validation: the number of folds.
  config.data.fold = None           # Only the one that is the test.
  config.data.memory = 4.0          # GiB; more images than that stay on disk.
  config.data.allow_overlap = False  # Accept test images in train.
  config.data.allow_contradictions = False  # And equal images of two classes.
  config.data.alpha = None          # Files: transparent parts on 'white' or
                                    # 'black', or 'drop'; they are refused.
  config.data.depth = None          # Files: 16 bits to 8 by 'scale'; refused.
  config.data.ignore = None         # folder, zip: names to leave out: '*.heic'.
  config.data.data_dir = None       # tfds: where sets are prepared.
  config.data.cache_dir = None      # tfds: where decoded ones are kept.
  config.data.train_split = None    # tfds: its training split; 'train'.
  config.data.test_split = None     # tfds: its test split; 'test'.
  config.data.validation_split = None  # tfds: its validation split; none.
  config.data.image_key = None      # tfds, parquet: what has the images.
  config.data.label_key = None      # tfds, parquet: what has the labels.
  config.data.file_column = None    # csv: the column of files; 'file_name', ...
  config.data.label_column = None   # csv: of labels; 'label', 'class', ...
  config.data.split_column = None   # csv: of splits; 'split', ...
  config.data.train_images = None   # npz: the array of images; x_train, ...
  config.data.train_labels = None   # npz: the array of labels; y_train, ...
  config.data.test_images = None    # npz: of the test images; x_test, ...
  config.data.test_labels = None    # npz: of the test labels; y_test, ...
  config.data.val_images = None     # npz: of validation images; x_val, ...
  config.data.val_labels = None     # npz: of validation labels; y_val, ...
  config.data.range = None          # npz: black and white of floats: (-1, 1).
  config.data.names_key = None      # npz: of class names; 'class_names'.
  config.data.train_index = None    # npz: of places in a larger set.
  config.data.test_index = None     # npz: likewise.

  # A pool with an exact copy of a test or validation image stops the study; so
  # does one with more near copies than this, and than clean real images have:
  # their share and 3 standard errors.
  config.audit = _section()
  config.audit.max_leaks = 0.01     # The share of a pool that may be such.
  config.audit.allow_leaks = False  # Go on all the same.

  # What looks at generated images. Scattering has seen no image of any set, so
  # it favours none.
  config.evaluation = _section()
  config.evaluation.extractor = 'scattering'  # A file of extractors/.
  config.evaluation.weights = ''    # Its file of weights, if it wants one.
  config.evaluation.batch_size = 64  # Images that it sees at a time.
  config.evaluation.metrics = (     # Files of image_metrics/.
      'fid', 'kid', 'prdc', 'authenticity', 'copying', 'diversity', 'intra_fd')

  # The checkpoint of a generator is the one where a number is lowest.
  config.curve = _section()
  config.curve.metric = 'fid'       # Of image_metrics/: drawn images beside the
                                    # validation split.
  config.curve.every = 100          # Steps between looks; 0 takes the last.
  config.curve.images = 500         # Drawn for a look.

  # A generator whose label obedience or diversity, seen by the same network on
  # the same images, falls below a share of its highest at two looks in a row
  # has collapsed: training ends, and the best weights before it draw the pool.
  # Without a curve there is no such look.
  config.collapse = _section()
  config.collapse.obedience = 0.5   # That share; 0 switches it off.
  config.collapse.diversity = 0.5   # Likewise.

  config.augmentations = _section()  # NAME -> arguments of augment.standard.
  config.selectors = _section()     # NAME -> common.selector(...).
  config.generators = _section()    # NAME -> common.generator(...).
  config.pools = _section()         # NAME -> common.pool(...).
  config.classifiers = _section()   # NAME -> common.classifier(...).
  config.arms = ()                  # common.arm(...), in order.
  config.published = ()             # common.published(...), beside ours.

  config.judge = classifier(        # Like common.classifier(...): tells whether
                                    # samples show their class. It may learn
                                    # from training images that the low-data
                                    # subset left out: no arm sees it.
      'cnn', steps=600, optimizer='adam', learning_rate=1e-3,
      weight_decay=1e-4)
  config.judge.augment = ''         # A name of config.augmentations, or ''.
  return config


def _section(**keys) -> config_dict.ConfigDict:
  """Names and types are checked once the file is read: for all at a time."""
  return config_dict.ConfigDict(keys, type_safe=False)


def generator(model: str, *, steps: int, batch_size: int = 64,
              representatives: str = '', **hyper):
  """A block of config.generators.

  Args:
    model: a file of generators/.
    steps: updates of the generator.
    batch_size: images of a step.
    representatives: of a model of one image, such as singan: the selector that
      picks the images that it learns from, one training each; a name of
      config.selectors, or a file of data/selectors/.
    **hyper: goes to that file's `build`.
  """
  return _section(model=model, steps=steps, batch_size=batch_size,
                  representatives=representatives, **hyper)


def selector(selector: str, *, classes: tuple = (), extractor: str = '',
             weights: str = '', **hyper):
  """A block of config.selectors: what picks images out of a set.

  Args:
    selector: a file of data/selectors/.
    classes: names or numbers of the classes that it looks at; () for all,
      ('minority',) for those of config.minority.
    extractor: a file of extractors/ that it sees images by; '' for that of
      config.evaluation.
    weights: the extractor's file of weights, if it wants one.
    **hyper: goes to the selector's `build`.
  """
  return _section(selector=selector, classes=classes, extractor=extractor,
                  weights=weights, **hyper)


def classifier(model: str, *, steps: int = 0, epochs: float = 0.0,
               batch_size: int = 64, **hyper):
  """A block of config.classifiers; recipes are in configs/recipes.py.

  Args:
    model: a file of classifiers/.
    steps: how long it learns, in optimizer steps; 0 where epochs say it.
    epochs: the same in passes over the real training images; 0.0 likewise.
    batch_size: images of a step.
    **hyper: goes to that file's `build` and to training/classifier.make.
  """
  return _section(model=model, steps=steps, epochs=float(epochs),
                  batch_size=batch_size, **hyper)


def pool(generator: str, *, per_class: int = 0, batch_size: int = 100,
         selectors: tuple = (), draw: dict | None = None, **more):
  """A block of config.pools: what a generator draws and selectors keep.

  Args:
    generator: a name of config.generators.
    per_class: images a class; 0 for as many as the arms need, but 100 at least.
    batch_size: images drawn at a time.
    selectors: what screens them, one after the other: names of
      config.selectors, or files of data/selectors/ as they are by default.
    draw: what the generator takes beside noise and labels when it draws, such
      as dict(truncation=0.7) or dict(start=1).
    **more: nothing yet; a wrong word is told with the nearest right one.
  """
  return _section(generator=generator, per_class=per_class,
                  batch_size=batch_size, selectors=selectors, draw=draw or {},
                  **more)


def imported(path: str = '', *, source: str = 'auto', split: str = '',
             trained_on: str = '', per_class: int = 0, selectors: tuple = (),
             **more):
  """A block of config.pools: labelled images that somebody else made.

  Args:
    path: where they lie.
    source: a file of data/datasets/ that reads them; 'auto' tells folders, npz,
      tables, parquet, WebDataset and zips apart.
    split: which part, of a source with several.
    trained_on: sha256 of the images that its generator learned from, as the
      report and an export have it of a split; '' for nobody knows.
    per_class: the first images of each class, in the order of the files; 0 for
      all.
    selectors: what screens them, as of `pool`.
    **more: goes to the source, such as alpha, crop or ignore. Images get the
      size of the study's.
  """
  return _section(generator='', source=source, path=path, split=split,
                  trained_on=trained_on, per_class=per_class, batch_size=100,
                  selectors=selectors, draw={}, **more)


def arm(name: str, **more) -> dict:
  """One arm: real images, how those of a pool join them, and the loss.

  Args:
    name: what it is called.
    **more: see Arm in jaxaug/study/arms.py, or docs/config.md.
  """
  return {'name': name, **more}


def published(classifier: str, arm: str, value: float, *, source: str,
              difference: str, n: int = 1, metric: str = 'error') -> dict:
  """A published figure, which the report shows beside ours.

  Args:
    classifier, arm: of this study, what the figure is set beside.
    value: the figure, as the metric has it: shares are from 0 to 1.
    source: who published it.
    difference: what differs from this study, in words: data, split, length.
    n: trainings behind it.
    metric: a file of metrics/.
  """
  return {'classifier': classifier, 'arm': arm, 'value': value, 'n': n,
          'metric': metric, 'source': source, 'difference': difference}


def smoke(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks any config to seconds: every stage, few steps, little data."""
  config.name += '_smoke'
  config.runs = 2
  config.log_every, config.save_every = 2, 4
  config.sample_every, config.eval_every = 4, 3
  config.curve.every, config.curve.images = 4, 100
  config.evaluation.metrics = ('fid', 'prdc')
  if config.data.source in ('tfds', 'auto', 'folder', 'npz'):
    # Nothing to download, to prepare, to have.
    config.data.source, config.data.name = 'fashion_mnist_small', None
    config.data.path = config.data.resize = None
  config.data.fraction = None
  config.data.per_class = 10
  counts = config.data.imbalance
  if counts and counts[0] != 'exponential':
    config.data.imbalance = tuple(max(4, 10 * n // max(counts))
                                  for n in counts)
  blocks = [*config.generators.values(), *config.classifiers.values(),
            config.judge]
  for block in blocks:
    block.steps, block.batch_size = 6, 8
    if 'epochs' in block:
      block.epochs = 0.0
  for block in config.pools.values():
    block.per_class, block.batch_size = 20, 20
    if block.get('source'):
      block.source, block.split = 'fashion_mnist_small', 'train'
      del block['path']
      config.audit.allow_leaks = True  # Images of the study's own splits.
  return config


def finish(config: config_dict.ConfigDict, arg: str | None, variants=()):
  """Applies the part of --config after the colon; ends every get_config.

  variants: names of others than 'smoke', which the file itself applies.
  """
  if arg == 'smoke':
    return smoke(config)
  if arg and arg not in variants:
    raise ValueError(f'--config=...:{arg}: unknown variant; expected '
                     f'{" or ".join(("smoke", *variants))}.')
  return config
