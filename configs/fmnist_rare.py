"""Two rare classes: which remedy helps, the usual ones or which generator?

python launch.py --config=configs/fmnist_rare.py

Embedded Fashion-MNIST, 500 images of every class but 50 coats and 50 sneakers.
Plain arms: standard augmentation, oversampling, class weights, balanced
softmax. Generated ones fill both classes up to the others: a conditional GAN,
BAGAN, DAGAN, whose images start from real ones of the class, and SinGAN, one of
each of five representatives. The verdict is about balanced accuracy; the report
has the accuracy on the two beside it, and the share of near copies.

One launch has one training of each generator. Launched with several seeds
(--config.seed=1, a workdir each), `python -m benchmarks.over_seeds WORKDIR...`
pairs the arms over trainings of generators as well. 2 CPU cores: about 18
minutes. Five launches are in docs/results/rare_classes.md: generated images
help beside nothing and are far behind balanced softmax.

Your own images, whose class 'mine' is rare already: --config.data.source=folder
--config.data.path=FOLDER --config.data.resize=28 --config.data.imbalance=None
--config.minority=mine.
"""
from configs import common, quickstart


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'fmnist_rare'
  config.metric = 'balanced_accuracy'
  config.minority = ('Coat', 'Sneaker')
  config.runs = 3
  config.data.imbalance = (500,) * 4 + (50,) + (500,) * 2 + (50,) + (500,) * 2
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.selectors.representatives = common.selector(
      'kmeans', count=1 if arg == 'smoke' else 5, classes=('minority',))
  config.generators.cgan = quickstart.cgan(steps=1500)
  # Networks and rates for 2 CPU cores, much smaller than the papers'.
  config.generators.bagan = common.generator(
      'bagan', steps=1200, z_dim=32, hidden=256, g_width=16, d_width=16,
      autoencoder_lr=1e-3, g_lr=1e-4, d_lr=4e-4, ema_decay=0.99)
  config.generators.dagan = common.generator(
      'dagan', steps=800, batch_size=16, z_dim=32, g_widths=(16, 32, 64),
      d_widths=(32, 64, 64), g_inner=1, d_inner=1, d_hidden=128, d_steps=2,
      norm_decay=0.9, dropout=0.2, g_lr=5e-4, d_lr=5e-4, ema_decay=0.98)
  config.generators.singan = common.generator(
      'singan', steps=800, representatives='representatives', min_size=14,
      factor=0.7, width=16)
  for name in ('cgan', 'bagan', 'dagan', 'singan'):
    config.pools[name] = common.pool(name)
  config.classifiers.cnn = quickstart.cnn(steps=1000)
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('oversample', oversample='max'),
      common.arm('class_weights', class_weights=1.0),
      common.arm('balanced_softmax', logit_adjustment=1.0),
      *(common.arm(name, pool=name, fill='max', classes=('minority',))
        for name in config.pools))
  return common.finish(config, arg)
