"""CIFAR-10: how many images of a BigGAN replace real ones, or help them?

python launch.py --config=configs/cifar_biggan.py

The study of Liu with DiffAugment's BigGAN: 20 to 100 % of the real images give
way to generated ones, or as many are added, for DenseNet-40-12 and for DIANet
on ResNet56, all with flips and shifts. Its figures stand beside ours in the
report; docs/papers/cifar_biggan.md says what was measured. Variants:

* none: one accelerator, an estimated 4 hours; 50,000 steps of the generator,
  30 epochs of the classifiers, 3 runs.
* `:full`: the paper's lengths, 250,000 steps, 300 and 200 epochs, 5 runs; an
  estimated 40 hours on one accelerator.
* `:resnet164`: as none, with DIANet on ResNet164, as its table has it.
* `:cpu`: a tenth of the images, small networks, five arms, on 2 CPU cores in
  18 minutes; expected (n = 3) densenet real 55.56 ± 1.94 %, replace_100
  69.88 ± 0.67 %. Here with an .npz of pixels:

python launch.py --config=configs/cifar_biggan.py:cpu \
  --config.data.source=npz --config.data.path=FILE --config.data.name=None
"""
from configs import common, recipes

RATIOS = (20, 40, 60, 80, 100)  # Percent of the real training images.
# Test errors of Liu: classifier, arm, share.
PUBLISHED = (('densenet', 'real', 0.0682), ('densenet', 'replace_100', 0.1075),
             ('dianet', 'real', 0.0664), ('dianet', 'replace_100', 0.1033),
             ('dianet', 'add_40', 0.0636))
# What differs from them.
THEIRS = ('there one training each on all 50,000 images, 300 and 200 epochs '
          'long; a generator of 250,000 steps, whose code keeps the weights '
          'of the lowest FID to the test images; ')
SELECTION = (', a tenth of the training images for selection alone, and as '
             'many optimizer steps in all arms')
OURS = {None: 'here 50,000 steps and 30 epochs',
        'full': 'here several trainings as long',
        'resnet164': 'here 50,000 steps, 30 epochs and ResNet164',
        'cpu': 'here 10 % of the images, 3,500 steps of a generator with a '
               'fifth of the channels, 300 of small classifiers',
        'smoke': 'here a few steps on other images'}


def _arms(replace=RATIOS, add=RATIOS):
  """Returns real images, then those with so many percent generated ones."""
  def arm(name, **how):
    return common.arm(name, augment='standard', **how)
  return (
      arm('real'),
      *(arm(f'replace_{p}', pool='biggan', replace=p / 100) for p in replace),
      *(arm(f'add_{p}', pool='biggan', add=p / 100) for p in add))


def _biggan(steps: int, **more):
  """DiffAugment's BigGAN for CIFAR-10; its batches and rates are defaults."""
  return common.generator('biggan', **dict(
      steps=steps, batch_size=50, dtype='bfloat16') | more)


def _full(config):
  config.runs = 5
  config.eval_every, config.save_every = 2000, 10_000
  config.curve.every = 4000
  config.generators.biggan = _biggan(steps=250_000)
  config.classifiers.densenet = recipes.densenet(dropout=0.0)
  config.classifiers.dianet = recipes.dianet()


def _cpu(config):
  """A tenth of the images; small networks, halved maps, few steps."""
  config.data.per_class = 500
  config.log_every, config.eval_every, config.save_every = 20, 100, 500
  config.sample_every, config.curve.every, config.curve.images = 200, 200, 500
  # No cutout, whose holes show in samples where images are few.
  config.generators.biggan = _biggan(
      steps=3500, batch_size=32, width=12, d_steps=1, g_lr=1e-4, d_lr=4e-4,
      ema_decay=0.99, ema_start=0, diff_augment='translation', dtype='float32')
  config.classifiers.densenet = recipes.densenet(
      depth=16, stem_stride=2, dropout=0.0, epochs=0.0, steps=300)
  config.classifiers.dianet = recipes.dianet(
      depth=20, stem_stride=2, epochs=0.0, steps=300)
  config.judge = common.base().judge
  config.arms = _arms(replace=(40, 100), add=(40, 100))


def _smoke(config):
  config.generators.biggan = _biggan(
      steps=1, width=2, d_steps=1, dtype='float32')
  config.classifiers.densenet = recipes.densenet(depth=7, stem_stride=2)
  config.classifiers.dianet = recipes.dianet(depth=11, stem_stride=2)
  config.judge = common.base().judge
  config.arms = _arms(replace=(40, 100), add=(40,))


def _published(arms, arg):
  """Returns the figures of Liu for arms that a variant has."""
  names = [arm['name'] for arm in arms]
  return tuple(
      common.published(classifier, arm, value, difference=THEIRS + OURS[arg] +
                       SELECTION, source='Liu, images of DiffAugment BigGAN')
      for classifier, arm, value in PUBLISHED if arm in names)


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  if arg not in OURS:
    raise ValueError(f'--config=...:{arg}: unknown variant; expected '
                     f'{", ".join(filter(None, OURS))}.')
  config = common.base()
  config.name = 'cifar_biggan' + f'_{arg}' * (arg in ('full', 'resnet164',
                                                      'cpu'))
  config.runs = 3
  config.data.source = 'tfds'
  config.data.name = 'cifar10'
  config.data.val_fraction = 0.1
  config.eval_every, config.save_every = 500, 2000
  config.sample_every = config.curve.every = 1000
  config.curve.images = 2000
  config.augmentations.standard = dict(flip=0.5, shift=4)
  config.generators.biggan = _biggan(steps=50_000)
  config.pools.biggan = common.pool('biggan')
  config.classifiers.densenet = recipes.densenet(dropout=0.0, epochs=30.0)
  config.classifiers.dianet = recipes.dianet(epochs=30.0, base=(
      'resnet164' if arg == 'resnet164' else 'resnet56'))
  config.judge = recipes.resnet(epochs=30.0, augment='standard')
  config.arms = _arms()
  if change := {'full': _full, 'cpu': _cpu, 'smoke': _smoke}.get(arg):
    change(config)
  config.published = _published(config.arms, arg)
  return common.smoke(config) if arg == 'smoke' else config
