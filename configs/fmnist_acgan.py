"""Does an AC-GAN help with 50 images a class? Embedded Fashion-MNIST.

python launch.py --config=configs/fmnist_acgan.py

2 CPU cores that other programs shared: 18 minutes. Expected (n = 5): real
21.61 ± 0.67 %, add_100 22.02 ± 0.64 %, replace_50 26.87 ± 1.12 %, label
obedience 99.6 %; more in docs/results/fmnist_acgan.md.
"""
from configs import common


def acgan(steps: int):
  """The AC-GAN that learns 28x28 garments from few images.

  D's batch norm, of real and of generated images apart, tells it when samples
  are alike: without it those of a class became one image.
  """
  return common.generator(
      'acgan', steps=steps, batch_size=64, network='cifar', z_dim=64,
      hidden=64, g_widths=(128, 64), d_widths=(24, 32, 64, 64), dropout=0.0,
      class_loss=0.5, class_on_fakes=False, fresh_fakes=False,
      diff_augment='translation', diff_augment_fill=-1.0, g_lr=8e-4, d_lr=2e-3,
      ema_decay=0.99)


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'fmnist_acgan'
  config.data.per_class = 50
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.generators.acgan = acgan(steps=1000)
  config.pools.acgan = common.pool('acgan')
  config.classifiers.cnn = common.classifier(
      'cnn', steps=300, batch_size=48, optimizer='adam', learning_rate=1e-3,
      weight_decay=1e-4)
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('add_100', pool='acgan', add=1.0),
      common.arm('standard_add_100', pool='acgan', add=1.0, augment='standard',
                 baseline='standard'),
      common.arm('replace_50', pool='acgan', replace=0.5),
  )
  return common.finish(config, arg)
