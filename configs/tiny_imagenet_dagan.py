"""Two rare classes of Tiny ImageNet: does DAGAN help?

python launch.py --config=configs/tiny_imagenet_dagan.py \
    --config.data.path=tiny-imagenet/train

As tiny_imagenet_singan.py, but for the generator: one DAGAN of all classes, of
100 epochs of 32 pairs of images, each of its images made from a real one of the
class. The study of SinGAN trained one DAGAN a class, which made images from
hold-out ones too; whether these were added is not recorded.

`:cpu`, n = 3: balanced accuracy 29.98 ± 1.22, with DAGAN 30.78 ± 1.52 %;
docs/results/tiny_imagenet.md.
"""
from configs import common, tiny_imagenet_singan


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  small = {'cpu': dict(z_dim=32, g_widths=(16, 32, 64), d_widths=(32, 64, 64),
                       g_inner=1, d_inner=1, d_hidden=128, d_steps=2,
                       norm_decay=0.9, dropout=0.2, g_lr=5e-4, d_lr=5e-4,
                       ema_decay=0.98),
           'smoke': dict(g_widths=(4, 4), d_widths=(4, 4), g_inner=1, d_inner=1,
                         d_steps=1, d_hidden=8)}.get(arg, {})
  generator = common.generator(
      'dagan', steps=1200 if arg == 'cpu' else 20_000,
      batch_size=16 if arg == 'cpu' else 32, **small)
  return tiny_imagenet_singan.study('dagan', arg, generator)
