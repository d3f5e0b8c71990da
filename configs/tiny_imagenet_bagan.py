"""Two rare classes of Tiny ImageNet: does BAGAN help?

python launch.py --config=configs/tiny_imagenet_bagan.py \
    --config.data.path=tiny-imagenet/train

As tiny_imagenet_singan.py, but for the generator: one BAGAN of all classes, of
150 epochs of 128 images, and as many before them of its autoencoder.

`:cpu`, n = 3: balanced accuracy 29.69 ± 1.43, with BAGAN 29.42 ± 1.62 %;
docs/results/tiny_imagenet.md.
"""
from configs import common, tiny_imagenet_singan


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  small = {'cpu': dict(z_dim=32, hidden=256, g_width=24, d_width=16,
                       autoencoder_lr=1e-3, g_lr=1e-4, d_lr=4e-4,
                       ema_decay=0.99),
           'smoke': dict(z_dim=8, hidden=16, g_width=4, d_width=4)}.get(arg, {})
  generator = common.generator(
      'bagan', steps=2000 if arg == 'cpu' else 16_000,
      batch_size=64 if arg == 'cpu' else 128, **small)
  return tiny_imagenet_singan.study('bagan', arg, generator)
