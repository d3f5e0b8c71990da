"""The nouns that travel between the layers: NamedTuples only."""
import typing

import jax
import numpy as np
import optax

from jaxaug.core import errors


class ImageSpec(typing.NamedTuple):
  """What a network must know of the images; no other place writes 10 or 32."""
  height: int
  width: int
  channels: int
  num_classes: int

  def at_least(self, side: int, network: str, why: str = ''):
    """Raises InputError where a side has fewer pixels than `network` needs."""
    if min(self.height, self.width) < side:
      raise errors.InputError(
          f'model: {network} needs images of at least {side}x{side} pixels'
          f'{why}; the data is {self.height}x{self.width}, see '
          'config.data.resize.')


class Split(typing.NamedTuple):
  """Labelled images on the host.

  images: uint8 [N, H, W, C], C is 1 or 3.
  labels: int32 [N].
  index: int64 [N], where each image stands in its source's split; pixels may
    repeat, an index never does.
  """
  images: np.ndarray
  labels: np.ndarray
  index: np.ndarray


class Dataset(typing.NamedTuple):
  """What a source gives; splits that the source does not have are None.

  about: what a reader should know of how it was read, a JSON value: 'sizes' and
    'modes' of the images as they were and 'ignored' files, each with how many,
    'notes', and the 'licence' of the images; any of it.
  names: split -> what each image is called; {} where they have no names.
  """
  name: str
  class_names: tuple[str, ...]
  train: Split
  validation: Split | None = None
  test: Split | None = None
  about: dict = {}
  names: dict = {}


class Net(typing.NamedTuple):
  """One trainable network: its weights, statistics and optimizer memory."""
  params: typing.Any
  stats: typing.Any      # Batch norm means, spectral norm vectors; {} for none.
  opt: optax.OptState


class GanState(typing.NamedTuple):
  """All that a two-player run must remember."""
  step: jax.Array        # int32 [], counts generator updates.
  g: Net
  d: Net
  ema: typing.Any        # {'params', 'batch_stats'} of the averaged generator.
  control: dict = {}     # What ADA and LeCam remember; {} for neither.


class ClassifierState(typing.NamedTuple):
  """All that a classifier run must remember."""
  step: jax.Array        # int32 [].
  steps: jax.Array       # int32 [], of the whole run: data, so that arms of
  net: Net               # different length share one compiled step.


class Phase(typing.NamedTuple):
  """A later part of a training that goes by another rule.

  first: updates before it.
  step: as GenerativeModel.step, on states of the same structure.
  begin(state, images uint8 [N, H, W, C], labels int32 [N]) -> state: before its
    first step, from the whole training split.
  """
  first: int
  step: typing.Callable
  begin: typing.Callable


class Critic(typing.NamedTuple):
  """What tells how real an image looks, such as a GAN's discriminator.

  variables(state) -> its part of a state.
  score(variables, images float32 [B, H, W, C] in [-1, 1], labels int32 [B]) ->
    raw scores float32 [B], higher for what looks real.
  """
  variables: typing.Callable
  score: typing.Callable


class GenerativeModel(typing.NamedTuple):
  """What makes a pool: pure functions; init, step and sample are jittable.

  init(key) -> state: a pytree without functions or keys.
  step(state, batch, key) -> (state, logs): one update. `batch` holds 'image'
    uint8 [d_steps, B, H, W, C] and 'label' int32 [d_steps, B], or what `feed`
    says; `logs` are scalars. `key` is the run's key: randomness is
    fold_in(key, step).
  variables(state) -> the part of a state that sampling needs, averaged.
  sample(variables, key, labels, given=None) -> float32 [B, H, W, C] in
    [-1, 1]; `given`, float32 [B, H, W, C], are the real images that a model
    with `origins` starts from. Its keyword-only arguments are what a pool may
    say of how it is drawn.
  parameters(state) -> {network: number of its trainable parameters}.
  d_steps: how many batches one `step` eats.
  decode(variables, z [B, z_dim], labels) -> what `sample` gives for this noise;
    None for models without a latent space.
  z_dim: size of the noise.
  adapt(state, images uint8 [N, H, W, C], labels int32 [N]) -> state: what a
    model takes from the whole training split before its first step; None for
    nothing.
  noise: what `decode` takes: 'normal', or 'uniform' from -1 to 1.
  phases: later parts of the training, in their order; () for one rule all
    along. Only the last one's weights are good for a pool.
  feed(labels int [N], class_names, batch_size, seed) -> batch(i) -> int32
    [..., B], the training images that step i sees, in the shape of its batch;
    a pure function. It refuses, as an InputError, classes that the model cannot
    learn from. None for shuffled epochs of all of them, [d_steps, B].
  origins: (class, class of the real images that its samples start from), of
    every class that it makes; () for noise alone.
  per_image: whether it learns from one image, so that a labelled set takes
    many of them; its `feed` is not asked, and a batch is that image.
  reconstruct(variables) -> float32 [1, H, W, C]: that image, as it makes it.
  critic: what judged its samples in training; None for nothing.
  """
  init: typing.Callable
  step: typing.Callable
  variables: typing.Callable
  sample: typing.Callable
  parameters: typing.Callable
  d_steps: int = 1
  decode: typing.Callable | None = None
  z_dim: int = 0
  adapt: typing.Callable | None = None
  noise: str = 'normal'
  phases: tuple[Phase, ...] = ()
  feed: typing.Callable | None = None
  origins: tuple[tuple[int, int], ...] = ()
  per_image: bool = False
  reconstruct: typing.Callable | None = None
  critic: Critic | None = None


class Extractor(typing.NamedTuple):
  """A frozen network that turns images into features.

  name: what numbers of it are named after, such as 'resnet56'.
  apply(variables, images) -> {'features': float32 [B, D]}, and 'logits'
    float32 [B, K] if it knows classes. Pure and jittable; images are uint8
    [B, H, W, C] of one size, and it resizes and normalises them itself.
  variables: pytree of host arrays.
  digest: sha256 of the file that the weights came from, in hex; '' if none.
  protocol: what it does to images before the network, in words.
  channels: how many it wants; 0 for any. Grey images are repeated.
  fid: whether a Frechet distance of its features may be called FID: the 2015
    Inception with the weights that everybody uses.
  """
  name: str
  apply: typing.Callable
  variables: typing.Any
  digest: str = ''
  protocol: str = ''
  channels: int = 3
  fid: bool = False


class Known(typing.NamedTuple):
  """What a selector may look at: the real training split, and no other.

  train: it.
  class_names: of its labels, K.
  features(uint8 [N, H, W, C]) -> float32 [N, D], of a frozen network.
  fit(images, labels, run) -> predict(uint8 [N, H, W, C]) -> logits float32
    [N, K]: trains a classifier, each `run` from other weights.
  score(images, labels) -> float32 [N], raw scores of the generator's own
    discriminator, higher for what looks real; None where there is none.
  seed: of what a selector draws.
  """
  train: Split
  class_names: tuple[str, ...]
  features: typing.Callable
  fit: typing.Callable
  score: typing.Callable | None = None
  seed: int = 0


class Moments(typing.NamedTuple):
  """Mean float64 [D] and covariance float64 [D, D] (n - 1) of features."""
  mean: np.ndarray
  covariance: np.ndarray


class ImageSet(typing.NamedTuple):
  """What metrics see of one set of images; None where none of them needs it.

  count: number of images; None where only statistics are known.
  features float32 [N, D], logits float32 [N, K], labels int32 [N],
  images uint8 [N, H, W, C]; rows belong together.
  """
  count: int | None
  moments: Moments | None = None
  features: np.ndarray | None = None
  logits: np.ndarray | None = None
  labels: np.ndarray | None = None
  images: np.ndarray | None = None


class Number(typing.NamedTuple):
  """What a number of a metric is.

  label: in words.
  unit: '%' for a share of 0 to 1 that is shown in percent, a word such as
    'nats', or '' where it is shown as it is.
  lower_is_better: None for neither direction.
  """
  label: str
  unit: str
  lower_is_better: bool | None


class Measured(typing.NamedTuple):
  """One number of a metric: `value`, or the mean over `n` parts, and their
  standard deviation; `over` names the parts, '' for none."""
  value: float
  std: float | None = None
  n: int | None = None
  over: str = ''
