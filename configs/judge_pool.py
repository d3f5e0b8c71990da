"""Do the generated images that I have help? Own folder, own pool; no generator.

python launch.py --config=configs/judge_pool.py \
    --config.data.path=IMAGES --config.pools.mine.path=POOL

Either is a folder by class, an npz, a table, parquet, WebDataset or a zip, as
docs/guide.md says; classes of the pool are told by their names, and its images
get the size of those of IMAGES, or of --config.data.resize=PIXELS. Without a
test split there a fifth of each class is held out. Before anything trains, the
pool is searched for copies of training, validation and test images; one that
holds test images stops the study.

All of the pool is added to the real images, with and without the usual
augmentation; every arm takes as many steps, 20 epochs of the real images.
--config.pools.mine.selectors=agreement,novelty screens it first, and then
--config.arms[2].add_per_class=N (and of arm 3) says how many images a class are
wanted. 2 CPU cores: about 3 minutes for 28x28 images and a pool of 1,000.
"""
from configs import common


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'judge_pool'
  config.data.source = 'auto'
  config.data.path = ''
  config.data.test_fraction = 0.2
  config.pools.mine = common.imported('')
  config.augmentations.standard = dict(flip=0.5, shift=2)
  config.classifiers.cnn = common.classifier(
      'cnn', epochs=20, batch_size=48, optimizer='adam', learning_rate=1e-3,
      weight_decay=1e-4)
  config.judge.steps = 400
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('mine', pool='mine', add_per_class='all'),
      common.arm('standard_mine', pool='mine', add_per_class='all',
                 augment='standard', baseline='standard'),
  )
  return common.finish(config, arg)
