"""Every building block of every folder keeps its folder's contract.

A new file in generators/, classifiers/, selectors/, metrics/ or datasets/ is
tested here without a change.
"""
import functools
import inspect
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.data import origins, pixels
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.training import checkpoint, classifier
from tests import quick

GREY = types.ImageSpec(28, 28, 1, 10)
RGB = types.ImageSpec(32, 32, 3, 10)
WIDE = types.ImageSpec(16, 24, 3, 4)
KEY = jax.random.key(0)
# The function that a block of each folder is made by.
ENTRY = {'generators': 'build', 'classifiers': 'build', 'selectors': 'build',
         'extractors': 'build', 'datasets': 'load', 'metrics': 'compute'}
# Options that make a large network small: the same code, fewer layers. One that
# is not here is tested as it is.
SMALL = {
    'acgan': {'hidden': 32, 'g_widths': (16, 16, 8), 'd_widths': (8, 8, 8, 8)},
    'alexnet': {'width': 0.25},
    'bagan': {'z_dim': 12, 'hidden': 32, 'g_width': 8, 'd_width': 4},
    'bagan_gp': {'z_dim': 12, 'widths': (8, 12), 'embed_dim': 8, 'hidden': 16,
                 'd_steps': 2},
    'biggan': {'width': 2, 'z_dim': 16, 'd_steps': 1,
               'statistics': 'running'},
    'ccgan': {'g_widths': (32, 32), 'd_widths': (16, 16)},
    'cyclegan': {'g_width': 8, 'd_width': 8, 'blocks': 1, 'pool': 3},
    'dagan': {'g_widths': (8, 8), 'd_widths': (8, 8), 'g_inner': 1,
              'd_inner': 1, 'd_hidden': 16, 'd_steps': 1},
    'dcgan': {'g_width': 8, 'd_width': 8},
    'densenet': {'depth': 10, 'growth': 4, 'bottleneck': True,
                 'reduction': 0.5},
    'dianet': {'depth': 20},
    'lapgan': {'halvings': 1, 'g_hidden': (32,), 'd_hidden': (16,),
               'g_channels': (6,), 'd_channels': (6, 6)},
    'mobilenet': {'width': 0.25},
    'resnet': {'depth': 8},
    'resnext': {'depth': 11, 'cardinality': 2, 'width': 8, 'widen': 2},
    'singan': {'min_size': 11, 'width': 4, 'steps': 4, 'factor': 0.65,
               'd_steps': 1, 'g_steps': 1},
    'vgg': {'depth': 11, 'width': 0.125},
    'wideresnet': {'depth': 10, 'widen': 1, 'dropout': 0.3},
}
BLOCKS = [(kind, name) for kind in ENTRY for name in registry.names(kind)]


def _each(kind, names=None):
  # Tests of one block come one after the other, and share what it compiled.
  return pytest.mark.parametrize('name', names or registry.names(kind),
                                 scope='module')


def _with_dtype(kind):
  return _each(kind, [
      name for name in registry.names(kind) if 'dtype' in registry.arguments(
          registry.find(kind, name).build)])


def _finite(tree):
  return all(np.isfinite(x).all() for x in jax.tree.leaves(tree)
             if jnp.issubdtype(x.dtype, jnp.inexact))


@pytest.mark.parametrize('kind, name', BLOCKS)
def test_block_is_documented_and_takes_its_options_by_name(kind, name):
  block = registry.find(kind, name)
  assert re.match(r'[A-Z][^\n]{10,78}[.:]?\n', block.__doc__ + '\n')
  entry = getattr(block, ENTRY[kind])
  assert entry.__doc__
  parameters = inspect.signature(entry).parameters.values()
  first = {'datasets': [], 'extractors': [], 'selectors': ['known'],
           'metrics': ['logits', 'labels']}.get(kind, ['spec'])
  assert [p.name for p in parameters
          if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)] == first
  for p in parameters:
    if p.kind is p.VAR_KEYWORD:
      assert callable(p.annotation)  # The rule whose arguments it takes too.
    elif p.kind is p.KEYWORD_ONLY:
      assert re.search(rf'\b{p.name}\b', entry.__doc__), p.name
      assert kind == 'datasets' or p.default is not p.empty, p.name


def _gan_batch(model, spec, size=4):
  """The first batch of a training split of noise, and all of that split."""
  train = _split(spec)
  index = np.arange(model.d_steps * size).reshape(model.d_steps, size)
  if model.feed:
    names = tuple(map(str, range(spec.num_classes)))
    index = model.feed(train.labels, names, size, 0)(0)
  elif model.per_image:
    train = types.Split(*(x[:1] for x in train))
    index = np.zeros((1, 1), np.int32)
  return {'image': train.images[index], 'label': train.labels[index]}, train


class _Made(typing.NamedTuple):
  """A generator, and what is compiled once for all tests of it.

  step: of its first phase. rules: of each one, (what begins it or None, step).
  sample(variables, key, labels): from real images where it wants some.
  """
  spec: types.ImageSpec
  model: types.GenerativeModel
  init: typing.Callable
  rules: tuple
  sample: typing.Callable

  @property
  def step(self):
    return self.rules[0][1]


@functools.lru_cache(3)  # Compiled programs are large.
def _made(name, spec, dtype) -> _Made:
  build = registry.find('generators', name).build
  given = {'dtype': dtype} if 'dtype' in registry.arguments(build) else {}
  model = build(spec, **SMALL.get(name, {}), **given)
  rules = [(None, model.step), *((p.begin, p.step) for p in model.phases)]
  draw = origins.sampler(model, _gan_batch(model, spec)[1], spec.num_classes)
  return _Made(spec, model, quick.jit(model.init), tuple(
      (begin and quick.jit(begin), quick.jit(step, donate_argnums=0))
      for begin, step in rules), quick.jit(lambda *given: draw(*given)[0]))


def _begun(made, state, begin):
  """The state at the start of a phase, or of all."""
  if begin:
    state = begin(state, *_gan_batch(made.model, made.spec)[1][:2])
  # To where a checkpoint puts it, or the step would be compiled again.
  return jax.device_put(state, jax.devices()[0])


def _start(made):
  return _begun(made, made.init(KEY),
                made.model.adapt and quick.jit(made.model.adapt))


def _labels(made):
  return np.resize(np.array(origins.made(
      made.model, made.spec.num_classes), np.int32), 7)


@_each('generators')
def test_generator_takes_grey_images(name):
  """As it is by default; shapes only."""
  # Tracing its many layers takes a quarter of a minute.
  given = SMALL[name] if name == 'dagan' else {}
  model = registry.find('generators', name).build(GREY, **given)
  made = _Made(GREY, model, model.init, (), None)
  state = jax.eval_shape(model.init, KEY)
  batch, train = _gan_batch(model, GREY)
  for begin, step in [(model.adapt, model.step), *(
      (phase.begin, phase.step) for phase in model.phases)]:
    begun = jax.eval_shape(begin, state, *train[:2]) if begin else state
    new, logs = jax.eval_shape(step, begun, batch, KEY)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), x)
              for x in (state, begun, new)]
    assert shapes[0] == shapes[1] == shapes[2] and logs
  draw = origins.sampler(model, train, GREY.num_classes)
  images, _ = jax.eval_shape(lambda state: draw(
      model.variables(state), KEY, _labels(made)), state)
  assert images.shape == (7, 28, 28, 1) and images.dtype == jnp.float32


@pytest.mark.parametrize('spec, dtype', [
    pytest.param(GREY, 'float32', marks=pytest.mark.slow), (WIDE, 'float32'),
    pytest.param(WIDE, 'bfloat16', marks=pytest.mark.slow)], ids=str)
@_each('generators')
def test_generator(name, spec, dtype, tmp_path):
  made = _made(name, spec, dtype)
  model, sample = made.model, made.sample
  state, (batch, _) = _start(made), _gan_batch(model, spec)
  before, done = jax.tree.map(np.array, state), 0
  for begin, step in made.rules:
    state = _begun(made, state, begin)
    begun = jax.tree.map(np.array, state)
    for _ in range(2):
      assert int(state.step) == done
      state, logs = step(state, batch, KEY)
      assert logs and all(v.shape == () and np.isfinite(v)
                          for v in logs.values())
      done += 1
    assert step._cache_size() == 1  # One compilation, whatever the step.
    assert _finite(state)
    if spec == WIDE:
      _resumes(tmp_path / str(done), step, batch, begun, state)
      assert step._cache_size() == 1
  moved = [not np.array_equal(a, b) for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(state), strict=True)]
  assert np.mean(moved) > 0.9
  assert _dtypes(before) == _dtypes(state)

  counts = model.parameters(state)
  assert counts and all(n > 0 for n in counts.values())
  labels, variables = _labels(made), model.variables(state)
  images = sample(variables, KEY, labels)
  assert images.shape == (7, spec.height, spec.width, spec.channels)
  assert images.dtype == jnp.float32 and (np.abs(images) <= 1).all()
  np.testing.assert_array_equal(images, sample(variables, KEY, labels))
  assert not np.array_equal(images, sample(variables, jax.random.key(1),
                                           labels))
  if not model.per_image:
    # Turned round, seven labels of two classes would be what they were.
    assert not np.array_equal(images, sample(variables, KEY,
                                             np.roll(labels, 1)))


def _resumes(folder, step, batch, start, end):
  """A step, a checkpoint on disk, another step: the bits of two steps."""
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), start)
  start = jax.device_put(jax.tree.map(jnp.array, start), jax.devices()[0])
  first = int(start.step) + 1
  keep = checkpoint.open(folder)
  keep.save(first, step(start, batch, KEY)[0], {})
  _, back, _ = keep.restore(like)
  keep.close()
  assert int(back.step) == first
  jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True),
               step(back, batch, KEY)[0], end)


def _classifier(name, spec, **given):
  build = registry.find('classifiers', name).build
  given = {k: v for k, v in given.items() if k in registry.arguments(build)}
  return build(spec, **SMALL.get(name, {}), **given)


@functools.lru_cache(1)
def _trained(name, spec, dtype):
  """A classifier after two steps: (variables, images, look at them)."""
  rule = classifier.make(spec, _classifier(name, spec, dtype=dtype),
                         learning_rate=0.01, weight_decay=0.0)
  state = quick.jit(rule.init)(KEY, 4)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.net.params))
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (6, *spec[:3])).astype(np.float32)
  labels = rng.integers(0, spec.num_classes, 6).astype(np.int32)
  before = jax.tree.map(np.array, state.net.params)
  step = quick.steady(rule.step, donate_argnums=0)
  for _ in range(2):
    state, logs = step(
        state, classifier.plain(images, labels, spec.num_classes), KEY)
    assert all(np.isfinite(v) for v in logs.values())
  assert step._cache_size() == 1
  assert _finite(state)
  # Every weight is used: its gradient is finite and not zero.
  for (path, a), b in zip(jax.tree.leaves_with_path(before),
                          jax.tree.leaves(state.net.params), strict=True):
    assert not np.array_equal(a, b), jax.tree_util.keystr(path)
  return classifier.variables(state.net), images, quick.jit(
      lambda variables, images: (rule.predict(variables, images),
                                 rule.features(variables, images)))


@pytest.mark.parametrize('spec, dtype', [
    (WIDE, 'float32'), *(pytest.param(*case, marks=pytest.mark.slow) for case in
                         ((GREY, 'float32'), (WIDE, 'bfloat16')))], ids=str)
@_each('classifiers')
def test_classifier(name, spec, dtype):
  variables, images, look = _trained(name, spec, dtype)
  logits, features = look(variables, images)
  assert logits.shape == (6, spec.num_classes)
  assert logits.dtype == features.dtype == jnp.float32 and _finite(logits)
  assert features.ndim == 2 and len(features) == 6
  # A prediction does not depend on its neighbours.
  again, _ = look(variables, np.concatenate([images[:2], 1 - images[2:]]))
  np.testing.assert_allclose(
      again[:2], logits[:2], atol=1e-5 if dtype == 'float32' else 5e-3)


@pytest.mark.parametrize('size, channels, classes', [
    (28, 1, 2), (32, 3, 200), (64, 1, 2), (128, 3, 200), (224, 3, 2)])
@_each('classifiers')
def test_classifier_takes_any_size(name, size, channels, classes):
  """As it is by default; shapes only."""
  spec = types.ImageSpec(size, size, channels, classes)
  network = registry.find('classifiers', name).build(spec)
  image = jax.ShapeDtypeStruct((2, *spec[:3]), jnp.float32)
  out = jax.eval_shape(
      lambda x: network.init_with_output(KEY, x, train=False)[0], image)
  assert out.shape == (2, classes) and out.dtype == jnp.float32


@pytest.mark.parametrize('spec', [types.ImageSpec(3, 5, 1, 2),
                                  types.ImageSpec(9, 21, 1, 2)], ids=str)
@_each('classifiers')
def test_classifier_takes_a_tiny_image_or_says_so_in_one_line(name, spec):
  try:
    network = registry.build('classifiers', name, {}, 'config.x', spec)
  except errors.InputError as e:
    assert re.match(rf'config\.x\.model: {name} needs images of at least ',
                    str(e)) and '\n' not in str(e)
    return
  image = jax.ShapeDtypeStruct((2, *spec[:3]), jnp.float32)
  out = jax.eval_shape(
      lambda x: network.init_with_output(KEY, x, train=False)[0], image)
  assert out.shape == (2, 2)


# Rules under which the networks of classifiers/, as they are by default, learn
# 64 images by heart; the others do under Adam.
BY_HEART = {'alexnet': {'optimizer': 'adam', 'learning_rate': 3e-4},
            'small_cnn': {'optimizer': 'adam', 'learning_rate': 3e-3}}


def test_the_tables_name_blocks_that_there_are():
  assert BY_HEART.keys() <= {*registry.names('classifiers')}
  assert SMALL.keys() <= {*registry.names('classifiers'),
                          *registry.names('generators')}


@pytest.mark.slow
@_each('classifiers')
def test_classifier_learns_64_real_images_by_heart(name):
  """As it is by default, but ResNeXt-101, which would take a quarter hour."""
  train = fashion_mnist_small.load().train
  pick = np.concatenate([np.flatnonzero(train.labels == k)[:7]
                         for k in range(10)])[:64]
  images = pixels.to_float(jnp.asarray(train.images[pick]))
  labels = jnp.asarray(train.labels[pick])
  given = {'resnext': {'depth': 29, 'width': 8}}
  network = registry.find('classifiers', name).build(
      GREY, **given.get(name, {}))
  rule = classifier.make(GREY, network, schedule='constant', weight_decay=0.0,
                         **BY_HEART.get(name, {'optimizer': 'adam',
                                               'learning_rate': 1e-3}))
  state = jax.jit(rule.init)(KEY, 300)
  step = jax.jit(rule.step, donate_argnums=0)
  predict = jax.jit(rule.predict)
  for i in range(300):
    state, _ = step(state, classifier.plain(images, labels, 10), KEY)
    if i % 10 == 9:
      logits = predict(classifier.variables(state.net), images)
      if (logits.argmax(-1) == labels).all():
        return
  raise AssertionError(f'{(logits.argmax(-1) != labels).sum()} of 64 wrong')


def _dtypes(tree):
  return jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.slow
@_with_dtype('generators')
def test_generator_computes_alike_in_half_precision(name):
  """Images and losses of one step; weights and averages stay float32."""
  outputs = []
  for dtype in 'float32', 'bfloat16':
    made = _made(name, WIDE, dtype)
    state = _start(made)
    assert jnp.bfloat16 not in jax.tree.leaves(_dtypes(state))
    images = made.sample(made.model.variables(state), KEY, _labels(made))
    _, logs = made.step(state, _gan_batch(made.model, WIDE)[0], KEY)
    outputs.append((images, {k: v for k, v in logs.items() if 'loss' in k}))
  (a, losses), (b, half) = outputs
  assert b.dtype == jnp.float32 and not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.02)
  assert losses
  for key in losses:
    np.testing.assert_allclose(losses[key], half[key], rtol=0.03, err_msg=key)


@_with_dtype('classifiers')
def test_classifier_computes_alike_in_half_precision(name):
  """Logits by the averages; weights and averages stay float32."""
  variables, images, look = _trained(name, WIDE, 'float32')
  half = _classifier(name, WIDE, dtype='bfloat16')
  own = jax.eval_shape(lambda x: half.init(KEY, x, train=False), images)
  assert {*jax.tree.leaves(_dtypes(own))} == {jnp.dtype('float32')}
  a, _ = look(variables, images)
  b = quick.jit(lambda v, x: half.apply(v, x, train=False))(variables, images)
  assert b.dtype == jnp.float32 and not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.03 * np.abs(a).max())


def _predictions(n=97, classes=7):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, classes - 1, n)  # The last class has no image.
  return rng.normal(size=(n, classes)) + np.eye(classes)[labels], labels


@_each('metrics')
def test_metric_does_not_depend_on_order(name):
  metric = registry.find('metrics', name)
  logits, labels = _predictions()
  want = metric.compute(logits, labels)
  assert want.keys() == metric.VALUES.keys()
  assert isinstance(want[name].value, float) and np.isfinite(want[name].value)
  rng = np.random.default_rng(1)
  for _ in range(5):
    order = rng.permutation(len(labels))
    assert metric.compute(logits[order], labels[order]) == want


@_each('metrics')
def test_metric_prefers_the_truth(name):
  metric = registry.find('metrics', name)
  logits, labels = _predictions()
  truth = 50 * np.eye(logits.shape[1])[labels]
  wrong = 50 * np.eye(logits.shape[1])[(labels + 1) % 7] - truth
  best, some, worst = (metric.compute(x, labels)[name].value
                       for x in (truth, logits, wrong))
  if not metric.VALUES[name].lower_is_better:
    best, some, worst = -best, -some, -worst
  assert best < some < worst


def _split(spec, n=40, seed=0):
  rng = np.random.default_rng(seed)
  return types.Split(
      rng.integers(0, 256, (n, *spec[:3]), np.uint8),
      (np.arange(n) % spec.num_classes).astype(np.int32), np.arange(n))


def _known(train, classes):
  """What a selector may look at, made of arithmetic on pixels."""
  def features(images):
    return images.reshape(len(images), -1)[:, ::7].astype(np.float32)
  def fit(images, labels, run):
    assert len(images) == len(labels)
    weights = np.random.default_rng(run).normal(
        size=(features(images).shape[1], classes))
    return lambda images: np.float32(features(images) @ weights / 100)
  return types.Known(train, tuple(map(str, range(classes))), features, fit,
                     lambda images, labels: features(images).mean(1), 3)


@pytest.mark.parametrize('spec', [GREY, WIDE], ids=str)
@_each('selectors')
def test_selector(name, spec):
  train, drawn = _split(spec), _split(spec, 60, seed=1)
  block, known = registry.find('selectors', name), _known(train,
                                                          spec.num_classes)
  def never(*given):
    raise AssertionError('it does not say that it looks at this')
  known = known._replace(**{what: never for what in (
      'features', 'fit', 'score') if what not in getattr(block, 'NEEDS', ())})
  select = block.build(known)
  before = [a.copy() for a in (*train, *drawn)]
  dropped = select(drawn.images, drawn.labels)
  for reason, which in dropped.items():
    assert re.fullmatch(r'[a-z][a-z \']+', reason)
    assert which.shape == (60,) and which.dtype == bool
  keep = ~np.any([*dropped.values()], 0)
  assert keep.any()
  for again in (select, block.build(known)):  # Asked again; and made again.
    for reason, which in again(drawn.images, drawn.labels).items():
      np.testing.assert_array_equal(which, dropped[reason])
  for a, b in zip(before, (*train, *drawn), strict=True):
    np.testing.assert_array_equal(a, b)
  nothing = select(drawn.images[:0], drawn.labels[:0])
  assert all(which.shape == (0,) for which in nothing.values())


@_each('datasets')
def test_source_that_needs_nothing(name):
  load = registry.find('datasets', name).load
  if inspect.Parameter.empty in registry.arguments(load).values():
    pytest.skip(f'{name} needs files; see datasets_test and tfds_test')
  dataset = load()
  assert isinstance(dataset.name, str) and dataset.name
  assert isinstance(dataset.class_names, tuple)
  classes = len(dataset.class_names)
  assert len(set(dataset.class_names)) == classes > 1
  assert dataset.train is not None
  for split in (dataset.train, dataset.validation, dataset.test):
    if split is None:
      continue
    n, height, width, channels = split.images.shape
    assert n and height and width and channels in (1, 3)
    assert split.images.dtype == np.uint8
    assert split.labels.shape == split.index.shape == (n,)
    assert (split.labels.dtype, split.index.dtype) == (np.int32, np.int64)
    assert set(np.unique(split.labels)) <= set(range(classes))
    assert len(np.unique(split.index)) == n
    assert split.images.shape[1:] == dataset.train.images.shape[1:]
  again = load()
  np.testing.assert_array_equal(again.train.images, dataset.train.images)
