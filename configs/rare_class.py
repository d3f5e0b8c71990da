"""One rare class: what helps it, generated images or the usual remedies?

python launch.py --config=configs/rare_class.py

Embedded Fashion-MNIST: 100 images of every class, 10 of the coats. The verdict
is about balanced accuracy; the report has the accuracy on coats beside it. All
arms flip and shift, so that each differs from `real` in its remedy alone.

2 CPU cores: about 5 minutes. Expected (n = 5): real 76.71 ± 0.60 %, oversample
78.75 ± 0.80 %, balanced_softmax 79.43 ± 0.37 %, fill 78.94 ± 0.34 %; more in
docs/results/rare_class.md.
"""
from configs import common, quickstart


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'rare_class'
  config.metric = 'balanced_accuracy'
  config.minority = ('Coat',)
  config.data.imbalance = (100, 100, 100, 100, 10, 100, 100, 100, 100, 100)
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.generators.cgan = quickstart.cgan(steps=1500)
  config.pools.cgan = common.pool('cgan')
  config.classifiers.cnn = quickstart.cnn(steps=500)
  config.arms = tuple(
      common.arm(name, augment='standard', **how) for name, how in {
          'real': {},
          'oversample': dict(oversample='max'),
          'class_weights': dict(class_weights=1.0),
          'balanced_softmax': dict(logit_adjustment=1.0),
          'fill': dict(pool='cgan', fill='max'),
          'cutmix_synthetic': dict(pool='cgan', mix='cutmix',
                                   partner='synthetic')}.items())
  return common.finish(config, arg)
