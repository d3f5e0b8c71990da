"""Published training recipes of the classifiers, as blocks for a config.

Each returns common.classifier(...) and takes any key of it. Lengths are in
epochs of the study's real training images; rates fall at shares of the run.
Images enter a network in [-1, 1], not standardised by channel as in some of
the papers.
"""
from configs import common


def _sgd(epochs, milestones, batch_size, weight_decay, **rule) -> dict:
  """The recipe of the residual families: steps down from a rate of 0.1."""
  return dict(optimizer='sgd', learning_rate=0.1, momentum=0.9,
              schedule='step', decay=0.1, decay_norms=True, epochs=epochs,
              milestones=milestones, batch_size=batch_size,
              weight_decay=weight_decay) | rule


def densenet(**more):
  """DenseNet-40-12 (Huang et al. 2017, section 4.2), without augmentation.

  With augmentation the paper has no dropout: dropout=0.0.
  """
  return common.classifier('densenet', **_sgd(
      300, (0.5, 0.75), 64, 1e-4, nesterov=True, depth=40, growth=12,
      dropout=0.2) | more)


def densenet_bc(**more):
  """DenseNet-BC-100-12 of the same paper, 0.77M parameters."""
  return densenet(**dict(depth=100, bottleneck=True, reduction=0.5,
                         stem=24) | more)


def dianet(**more):
  """DIANet on ResNet56 as the study of generated CIFAR-10 images ran it.

  200 epochs, batch 64, a tenth at 40, 60 and 80 %, Nesterov.
  """
  return common.classifier('dianet', **_sgd(
      200, (0.4, 0.6, 0.8), 64, 1e-4, nesterov=True, base='resnet56') | more)


def dianet_resnet164(**more):
  """DIA-ResNet164 (Huang et al. 2020), its published code's schedule."""
  return dianet(**dict(base='resnet164', epochs=180, milestones=(
      0.3333, 0.6667), batch_size=128, nesterov=False) | more)


def dianet_preresnet164(**more):
  """DIA-PreResNet164 of the same code."""
  return dianet_resnet164(**dict(base='preresnet164', epochs=164, milestones=(
      0.4939, 0.7439)) | more)


def dianet_wrn52_4(**more):
  """DIA-WRN-52-4 of the same code."""
  return dianet_resnet164(**dict(
      base='wrn52_4', epochs=200, milestones=(0.4, 0.6, 0.8), decay=0.2,
      weight_decay=5e-4, dropout=0.3) | more)


def dianet_resnext101(**more):
  """DIA-ResNeXt-101, 8x32d, of the same code."""
  return dianet_resnet164(**dict(
      base='resnext101', epochs=300, milestones=(0.5, 0.75),
      weight_decay=5e-4) | more)


def resnet(**more):
  """ResNet-20 (He et al. 2016, section 4.2): 64,000 steps of 128 images."""
  return common.classifier('resnet', **_sgd(
      182, (0.5, 0.75), 128, 1e-4, nesterov=False, depth=20) | more)


def wideresnet(**more):
  """WRN-52-4 (Zagoruyko and Komodakis 2016), as DIANet's tables have it."""
  return common.classifier('wideresnet', **_sgd(
      200, (0.4, 0.6, 0.8), 128, 5e-4, nesterov=False, decay=0.2, depth=52,
      widen=4, dropout=0.3) | more)


def resnext(**more):
  """ResNeXt-101, 8x32d (Xie et al. 2017), as DIANet's tables have it."""
  return common.classifier('resnext', **_sgd(
      300, (0.5, 0.75), 128, 5e-4, nesterov=False, depth=101,
      cardinality=8) | more)


def vgg(**more):
  """VGG-16 with batch norm for CIFAR: 164 epochs, a tenth at 81 and 122."""
  return common.classifier('vgg', **_sgd(
      164, (0.4939, 0.7439), 128, 5e-4, nesterov=False, depth=16) | more)


def alexnet(**more):
  """AlexNet for CIFAR; without norms it starts at 0.01."""
  return common.classifier('alexnet', **_sgd(
      164, (0.4939, 0.7439), 128, 5e-4, nesterov=False,
      learning_rate=0.01) | more)


def mobilenet(**more):
  """MobileNet V1 under the optimizer of the SinGAN study: Adam, 4e-4.

  That study trained a head on frozen ImageNet features until validation stood
  still; here all layers learn, for a fixed number of epochs.
  """
  return common.classifier('mobilenet', **dict(
      version=1, optimizer='adam', learning_rate=4e-4, schedule='constant',
      weight_decay=0.0, epochs=100, batch_size=64) | more)


def cnn(**more):
  """The CNN of the cc-GAN study: SGD at 0.1 without momentum, 100 epochs.

  Its pixels were 0 to 255; in [-1, 1] the same rate is stable.
  """
  return common.classifier('cnn', **dict(
      optimizer='sgd', learning_rate=0.1, momentum=0.0, nesterov=False,
      schedule='constant', weight_decay=0.0, epochs=100, batch_size=100) | more)


def small_cnn(**more):
  """The CNN of the cow and horse study: Adam, 1e-4, 50 epochs."""
  return common.classifier('small_cnn', **dict(
      optimizer='adam', learning_rate=1e-4, schedule='constant',
      weight_decay=0.0, epochs=50, batch_size=8) | more)
