"""Do cGAN images help to tell 41 cows from 41 horses? The study at 64 pixels.

python launch.py --config=configs/cow_horse.py --config.data.path=FOLDER

FOLDER holds train/{cow,horse} and test/{cow,horse}. The generator is that of
the conditional GAN and CycleGAN study: noise of 100, three doublings of 128
channels, a final 7x7; a discriminator of four convolutions with dropout;
one-sided smoothing at 0.9. `:paper` is its length and size, 40,000 steps at
128x128 and ten times the learning rate (one GPU). Here a fifth of the
training images is for validation, where the paper used its test images.

2 CPU cores: about 21 minutes. Expected (n = 5): real 51.71 ± 4.36 %, add_500
50.24 ± 2.78 %; samples are in docs/results/cow_horse.md.
"""
from configs import common, recipes


def cgan(steps: int, **rule):
  """The conditional GAN of the study; its recipe but for the length."""
  return common.generator(
      'cgan', steps=steps, batch_size=8, z_dim=100, g_widths=(128,) * 4,
      d_widths=(128,) * 4, d_kernel=3, dropout=0.4, loss='non_saturating',
      label_smoothing=0.9, b1=0.5, **rule)


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'cow_horse'
  config.data.source = 'folder'
  config.data.resize = 128 if arg == 'paper' else 64
  config.generators.cgan = (cgan(steps=40_000, g_lr=2e-3, d_lr=2e-3)
                            if arg == 'paper' else
                            cgan(steps=6000, g_lr=2e-4, d_lr=2e-4))
  config.pools.cgan = common.pool('cgan', per_class=500)
  config.classifiers.small_cnn = recipes.small_cnn()
  config.arms = (
      common.arm('real'),
      *(common.arm(f'add_{2 * count}', pool='cgan', add_per_class=count)
        for count in ((5, 10, 20) if arg == 'smoke' else (125, 250, 500))))
  if arg == 'smoke':  # On images of 28x28.
    config.generators.cgan.update(g_widths=(8, 8, 8), d_widths=(8, 8, 8))
  return common.finish(config, arg, ('paper',))
