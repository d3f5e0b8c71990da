"""Which plain augmentation helps which classifier on real CIFAR-10 images?

python launch.py --config=configs/cifar_classifiers.py

The baselines that generated images have to beat, without a generator: the
classifiers of the papers under their published recipes; DenseNet without
dropout, as its paper has it with augmentation. `:part` is a first look on a
CPU: three epochs, one run, two arms. Here with an .npz of pixels:

python launch.py --config=configs/cifar_classifiers.py:part \
  --config.data.source=npz --config.data.path=FILE --config.data.name=None

One GPU: days in full. 2 CPU cores, 7,000 images: `:part` in half an hour, see
docs/results/classifiers.md.
"""
from configs import common, recipes


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'cifar_classifiers'
  config.data.source = 'tfds'
  config.data.name = 'cifar10'
  config.data.val_fraction = 0.1
  config.eval_every = config.save_every = 500
  config.augmentations.standard = dict(flip=0.5, shift=4)
  config.augmentations.rand_augment = dict(flip=0.5, shift=4, rand_ops=2,
                                           rand_magnitude=9)
  config.classifiers.densenet = recipes.densenet(dropout=0.0)
  config.classifiers.dianet = recipes.dianet(depth=0)
  config.classifiers.mobilenet = recipes.mobilenet(width=1.0)
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('rand_augment', augment='rand_augment', baseline='standard'),
      common.arm('mixup', augment='standard', mix='mixup', mix_alpha=0.2,
                 baseline='standard'),
      common.arm('cutmix', augment='standard', mix='cutmix',
                 baseline='standard'),
  )
  if arg == 'part':
    config.runs, config.eval_every, config.save_every = 1, 50, 50
    config.arms = config.arms[:2]
    for block in config.classifiers.values():
      block.epochs = 3.0
    return config
  if arg == 'smoke':
    config.classifiers.densenet.depth = 7
    config.classifiers.dianet.depth = 11
    config.classifiers.mobilenet.width = 0.25
  return common.finish(config, arg)
