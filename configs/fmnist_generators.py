"""Which kind of generator helps with 50 images a class? A DCGAN and a VAE.

python launch.py --config=configs/fmnist_generators.py

Embedded Fashion-MNIST, as configs/quickstart.py has it. 2 CPU cores: about 6
minutes. What was seen is in docs/results/fmnist_generators.md.
"""
from configs import common


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = common.base()
  config.name = 'fmnist_generators'
  config.data.per_class = 50
  config.generators.vae = common.generator(
      'vae', steps=1000, lr=3e-3, ema_decay=0.99)
  # A half and a quarter of the paper's width.
  config.generators.dcgan = common.generator(
      'dcgan', steps=1500, g_width=32, d_width=16, conditioning='projection',
      g_lr=1e-3, d_lr=5e-4, ema_decay=0.99)
  config.classifiers.cnn = common.classifier(
      'cnn', steps=300, batch_size=48, optimizer='adam', learning_rate=1e-3,
      weight_decay=1e-4)
  config.pools.vae = common.pool('vae')
  config.pools.dcgan = common.pool('dcgan')
  config.arms = (
      common.arm('real'),
      common.arm('add_vae', pool='vae', add=1.0),
      common.arm('add_dcgan', pool='dcgan', add=1.0),
  )
  return common.finish(config, arg)
