"""Does an AC-GAN help with 50 images a class? Embedded Fashion-MNIST.

python launch.py --config=configs/fmnist_acgan.py

2 CPU cores that other programs shared: 18 minutes. Expected (n = 5): real
21.61 ± 0.67 %, add_100 22.02 ± 0.64 %, replace_50 26.87 ± 1.12 %, label
obedience 99.6 %; more in docs/results/fmnist_acgan.md.
"""
from configs import common, quickstart


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
  config = quickstart.study('fmnist_acgan', acgan=acgan(steps=1000))
  quickstart.compare(config, 'acgan')
  return common.finish(config, arg)
