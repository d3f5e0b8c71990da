"""Which kind of generator helps with 50 images a class? A DCGAN and a VAE.

python launch.py --config=configs/fmnist_generators.py

Embedded Fashion-MNIST, as configs/quickstart.py has it. 2 CPU cores: about 3
minutes. Expected (n = 5): real 21.61 ± 0.67 %, add_vae 22.10 ± 0.72 %,
add_dcgan 21.48 ± 0.94 %, label obedience 94 and 93 %; more in
docs/results/fmnist_generators.md.
"""
from configs import common, quickstart


def get_config(arg: str | None = None):
  """Returns the study; `arg` is what stands after the colon."""
  config = quickstart.study(
      'fmnist_generators',
      vae=common.generator('vae', steps=1000, lr=3e-3, ema_decay=0.99),
      # A half and a quarter of the paper's width.
      dcgan=common.generator(
          'dcgan', steps=1500, g_width=32, d_width=16,
          conditioning='projection', g_lr=1e-3, d_lr=5e-4, ema_decay=0.99))
  config.arms = (
      common.arm('real'),
      common.arm('add_vae', pool='vae', add=1.0),
      common.arm('add_dcgan', pool='dcgan', add=1.0),
  )
  return common.finish(config, arg)
