"""Do horses made from cows, and cows from horses, help to tell them apart?

python launch.py --config=configs/cow_horse_cyclegan.py \
    --config.data.path=FOLDER

FOLDER holds train/{cow,horse} and test/{cow,horse}, 41 images each. 50 epochs
of one pair a step, as in the conditional GAN and CycleGAN study, but of the
original CycleGAN at 128x128 pixels. That study followed the Keras example at
256x256 pixels and a rate of 4e-4: blocks=9, norm='affine', cycle_split=True,
pool=0, decay=0.0, lr=4e-4. Here a fifth of the training images is for
validation. `:cpu` is 64x64 pixels, three eighths and a half of
the widths, and 120 epochs of mirrored images.
"""
from configs import common, recipes


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'cow_horse_cyclegan'
  config.data.source = 'folder'
  config.data.resize = 64 if arg == 'cpu' else 128
  small = {'cpu': dict(g_width=24, d_width=32, mirror=True),
           'smoke': dict(g_width=4, d_width=4, blocks=1)}.get(arg, {})
  config.generators.cyclegan = common.generator(
      'cyclegan', steps=4000 if arg == 'cpu' else 1640, batch_size=1, **small)
  config.curve.every = 0  # The last weights, as its rate has fallen to 0.
  config.pools.cyclegan = common.pool('cyclegan', per_class=125, batch_size=20)
  config.classifiers.small_cnn = recipes.small_cnn()
  if arg == 'smoke':
    config.data.classes = ('Sandal', 'Sneaker')
  config.arms = (
      common.arm('real'),
      common.arm('mirrored', augment='mirror'),
      *(common.arm(f'add_{2 * count}', pool='cyclegan', add_per_class=count)
        for count in ((5, 10) if arg == 'smoke' else (32, 125))))
  config.augmentations.mirror = dict(flip=0.5)
  return common.finish(config, arg, ('cpu',))
