"""Two rare classes of Tiny ImageNet: does BAGAN help?

python launch.py --config=configs/tiny_imagenet_bagan.py \
    --config.data.path=tiny-imagenet/train

As tiny_imagenet_singan.py, but for the generator: one BAGAN of all classes, of
150 epochs of 128 images, and as many before them of its autoencoder.
"""
from configs import common, tiny_imagenet_singan


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  generator = common.generator(
      'bagan', steps=3000 if arg == 'cpu' else 16_000,
      batch_size=64 if arg == 'cpu' else 128)
  return tiny_imagenet_singan.study('bagan', arg, generator)
