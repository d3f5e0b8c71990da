"""Does a cGAN help with 100 images a class of all of Fashion-MNIST?

pip install -r requirements-tfds.txt
python -m jaxaug prepare fashion_mnist
python launch.py --config=configs/fmnist_cgan.py

The classifiers learn from 100 images a class, 20 of them for selection, and
are tested on the official 10,000. Label obedience is judged by a classifier
of every real training image but the validation ones.
2 CPU cores: about 20 minutes. Expected (n = 5): cnn real 19.05 ± 0.28 %, resnet
real 21.34 ± 1.22 %, resnet standard 17.99 ± 0.64 %, label obedience 94 %; more
in docs/results/fmnist_cgan.md.
"""
from configs import common, quickstart


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'fmnist_cgan'
  config.data.source = 'tfds'
  config.data.name = 'fashion_mnist'
  config.data.per_class = 100
  config.eval_every = 100
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.augmentations.rotation = dict(flip=0.5, shift=1, rotation=15.0)
  config.generators.cgan = quickstart.cgan(steps=3000)
  config.pools.cgan = common.pool('cgan')
  config.judge.steps = 3000
  config.judge.batch_size = 128
  config.classifiers.cnn = quickstart.cnn(steps=600)
  config.classifiers.resnet = common.classifier(
      'resnet', steps=600, batch_size=48, depth=8, stem_stride=2,
      learning_rate=0.05)
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('rotation', augment='rotation'),
      common.arm('add_100', pool='cgan', add=1.0),
      common.arm('standard_add_100', pool='cgan', add=1.0, augment='standard',
                 baseline='standard'),
      common.arm('replace_50', pool='cgan', replace=0.5),
      common.arm('pool_only', pool='cgan', pool_only=True),
  )
  return common.finish(config, arg)
