"""Does a cGAN help with 50 images a class? The embedded Fashion-MNIST subset.

python launch.py --config=configs/quickstart.py

2 CPU cores: about 3 minutes. Expected (n = 5): real 21.61 ± 0.67 %, add_100
21.03 ± 0.76 %, replace_50 24.08 ± 0.91 %, label obedience 94 %; more in
docs/results/quickstart.md.
"""
from configs import common


def cgan(steps: int):
  """The conditional GAN that learns 28x28 garments from few images.

  Not mirrored: all shoes of the set look to the left.
  """
  return common.generator(
      'cgan', steps=steps, batch_size=64, z_dim=64, g_widths=(96, 48, 24),
      d_widths=(32, 64, 128), d_kernel=4, g_norm='batch',
      conditioning='projection', spectral_norm=True, dropout=0.0,
      fresh_fakes=False, g_lr=8e-4, d_lr=8e-4, ema_decay=0.99)


def cnn(steps: int):
  """The classifier that tells 28x28 garments apart in seconds."""
  return common.classifier(
      'cnn', steps=steps, batch_size=48, optimizer='adam', learning_rate=1e-3,
      weight_decay=1e-4)


def study(name: str, **generators):
  """A study of what the pools of generators do to 50 images a class."""
  config = common.base()
  config.name = name
  config.data.per_class = 50
  config.classifiers.cnn = cnn(steps=300)
  for kind, generator in generators.items():
    config.generators[kind] = generator
    config.pools[kind] = common.pool(kind)
  return config


def compare(config, pool: str):
  """Sets the arms: real images with generated ones, or with a usual remedy."""
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('add_100', pool=pool, add=1.0),
      common.arm('standard_add_100', pool=pool, add=1.0, augment='standard',
                 baseline='standard'),
      common.arm('replace_50', pool=pool, replace=0.5),
  )


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = study('quickstart', cgan=cgan(steps=1000))
  compare(config, 'cgan')
  return common.finish(config, arg)
