"""Two rare classes of Tiny ImageNet: does one SinGAN per representative help?

python launch.py --config=configs/tiny_imagenet_singan.py \
    --config.data.path=tiny-imagenet/train

That folder holds a folder for each of 22 classes, koala (n01882714) and water
tower (n04562935) among them. As in the study of SinGAN against BAGAN and DAGAN:
70 % of the images to train on, of the two classes 164 and 170 of 350; five
representatives of each, nearest to the centres of k-means; one SinGAN each, of
2,000 steps a scale; 150 of their images added to either class. That study added
250 by SinGAN and 150 by the others, flipped images upside down, trained a head
on frozen ImageNet features with a softmax taken twice, and saw representatives
by VGG-19: --config.selectors.representatives.extractor=vgg19 and .weights=FILE;
by default that is the extractor of the study, as its log says.
tiny_imagenet_bagan.py and tiny_imagenet_dagan.py are the same with another
generator.

`:cpu` is half of the image's sides, a quarter of MobileNet's width and a tenth
of its epochs, four scales of 250 steps: see `study` and `get_config`. 2 CPU
cores without AVX-512: `:cpu` about an hour. Expected of it (n = 3, balanced
accuracy): real 29.98 ± 1.22 %, singan 31.39 ± 0.65 %, no evidence; more in
docs/results/tiny_imagenet.md. `:smoke` is of the embedded images.
"""
from configs import common, recipes

# Training images a class after the split, in the order of the folders' names.
CLASSES = (
    'n01443537', 'n01629819', 'n01641577', 'n01774750', 'n01882714',
    'n01910747', 'n02056570', 'n02099601', 'n02123394', 'n02129165',
    'n02165456', 'n02206856', 'n02279972', 'n02410509', 'n02481823',
    'n02504458', 'n02509815', 'n04146614', 'n04285008', 'n04562935',
    'n07747607', 'n07873807')
RARE = {'n01882714': 164, 'n04562935': 170}


def study(name: str, arg: str | None, generator, *, representatives=None,
          draw=None):
  """Returns the study of one generator.

  Args:
    name: of the generator, which its pool and arm are called too.
    arg: what stands after the colon.
    generator: block of config.generators.
    representatives: block of config.selectors, for a model of one image.
    draw: of the pool.
  """
  config = common.base()
  config.name = f'tiny_imagenet_{name}'
  config.metric = 'balanced_accuracy'
  config.data.source = 'folder'
  config.data.test_fraction = 0.3
  config.data.val_fraction = 0.1
  config.data.imbalance = tuple(RARE.get(c, 350) for c in CLASSES)
  config.minority = tuple(RARE)
  if arg == 'smoke':  # On ten classes of other images.
    config.minority = ('Coat', 'Bag')
    config.data.imbalance = (350,) * 4 + (164,) + (350,) * 3 + (170, 350)
  # Its zoom, of 0.05 of the images, takes 0.4 to 0.8 of a side, anywhere (here:
  # of the middle); its brightness, of half of them, adds up to 0.6 of black to
  # white.
  config.augmentations.standard = dict(
      flip=0.5, zoom=(1.25, 2.5), zoom_p=0.05, brightness=1.2,
      brightness_p=0.5)
  if representatives:
    config.selectors.representatives = representatives
    representatives.classes = ('minority',)
  config.generators[name] = generator
  config.pools[name] = common.pool(name, draw=draw)
  config.classifiers.mobilenet = recipes.mobilenet()
  config.judge.steps = 3000
  config.arms = (
      common.arm('real'),
      common.arm('standard', augment='standard'),
      common.arm('oversample', oversample='max', classes=('minority',)),
      common.arm(name, pool=name, add_per_class=150, classes=('minority',)),
  )
  if arg == 'cpu':
    config.data.resize = 32
    config.runs = 3
    config.classifiers.mobilenet = recipes.mobilenet(width=0.25, epochs=10)
    config.judge.steps = 600
    config.eval_every = 100
  if arg == 'smoke':
    config.arms[-1]['add_per_class'] = 4
    config.arms = config.arms[::3]
    config.classifiers.mobilenet.width = 0.25
  return common.finish(config, arg, ('cpu',))


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  small = {'smoke': dict(width=4, min_size=25, d_steps=1, g_steps=1),
           'cpu': dict(min_size=18)}.get(arg, {})
  generator = common.generator(
      'singan', steps=1000 if arg == 'cpu' else 12_000,
      representatives='representatives', **small)
  return study('singan', arg, generator, representatives=common.selector(
      'kmeans', count=1 if arg == 'smoke' else 5))
