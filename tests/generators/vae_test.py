"""The VAE's bound by closed forms, its step against PyTorch, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.generators import vae
from tests import quick

SPEC = types.ImageSpec(12, 8, 3, 3)
SMALL = dict(z_dim=5, widths=(6, 7), embed_dim=3)
TINY = dict(z_dim=3, widths=(4,), embed_dim=2)
KEY = jax.random.key(0)


def _batch(spec=SPEC, size=6, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, spec.num_classes, (1, size))
  return {'image': rng.integers(0, 256, (1, size, *spec[:3]), np.uint8),
          'label': labels.astype(np.int32)}


def _flat(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'):
          np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _normals(rows=4, columns=5):
  """Means and log variances of two sets of normals."""
  rng = np.random.default_rng(0)
  mean, log_variance, prior_mean, prior_log_variance = np.float32(
      rng.normal(size=(4, rows, columns)))
  return mean, log_variance, prior_mean, prior_log_variance


@pytest.mark.parametrize('standard', [True, False])
def test_kl_divergence_is_that_of_torch(standard):
  torch = pytest.importorskip('torch')
  mean, log_variance, *prior = _normals()
  if standard:
    prior = np.zeros(()), np.zeros(())
  def normal(mean, log_variance):
    mean, log_variance = (torch.tensor(np.float64(x))
                          for x in (mean, log_variance))
    return torch.distributions.Normal(mean, (log_variance / 2).exp())
  want = torch.distributions.kl_divergence(normal(mean, log_variance),
                                           normal(*prior))
  kl = quick.jit(vae.kl_divergence)
  got = kl(mean, log_variance, *prior)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(kl(*prior, *prior), 0, atol=1e-7)


def test_kl_divergence_is_the_mean_of_what_is_drawn():
  stats = pytest.importorskip('scipy.stats')
  mean, log_variance, *prior = _normals(1, 3)
  q = stats.norm(np.float64(mean[0]), np.exp(np.float64(log_variance[0]) / 2))
  p = stats.norm(np.float64(prior[0][0]), np.exp(np.float64(prior[1][0]) / 2))
  z = q.rvs((400_000, 3), random_state=np.random.default_rng(1))
  drawn = q.logpdf(z) - p.logpdf(z)
  error = drawn.std(0) / len(z) ** 0.5
  got = vae.kl_divergence(mean, log_variance, *prior)[0]
  assert (np.abs(got - drawn.mean(0)) < 4 * error).all() and error.max() < 0.02


def _pixels():
  """Images from -1 to 1, and logits, of 4x3 pixels and 2 channels."""
  rng = np.random.default_rng(0)
  return (np.float32(rng.uniform(-1, 1, (5, 4, 3, 2))),
          np.float32(rng.normal(size=(5, 4, 3, 2)) * 3))


@pytest.mark.parametrize('sigma', [1.0, 0.4, 1 / 255])
def test_gaussian_is_that_of_scipy(sigma):
  stats, special = (pytest.importorskip(f'scipy.{name}')
                    for name in ('stats', 'special'))
  images, logits = _pixels()
  mean = 2 * special.expit(np.float64(logits)) - 1
  np.testing.assert_allclose(vae.mean_image(logits), mean, atol=1e-6)
  want = stats.norm.logpdf(np.float64(images), mean, sigma).sum((1, 2, 3))
  np.testing.assert_allclose(vae.gaussian(images, logits, np.log(sigma)), want,
                             rtol=1e-5)


def test_bernoulli_is_that_of_torch():
  torch = pytest.importorskip('torch')
  images, logits = _pixels()
  binary = np.sign(images)
  theirs = torch.distributions.Bernoulli(logits=torch.tensor(logits).double())
  want = theirs.log_prob(torch.tensor(binary / 2 + 0.5)).sum((1, 2, 3))
  np.testing.assert_allclose(vae.bernoulli(binary, logits, 0.0), want,
                             rtol=1e-6)
  cross = torch.nn.functional.binary_cross_entropy_with_logits(
      torch.tensor(logits).double(), torch.tensor(images / 2 + 0.5).double(),
      reduction='none').sum((1, 2, 3))
  np.testing.assert_allclose(vae.bernoulli(images, logits, 0.0), -cross,
                             rtol=1e-5)


def test_bound_weighs_the_divergence_and_leaves_some_of_it_free():
  rng = np.random.default_rng(0)
  nats, kl = np.float32(rng.normal(size=6)), np.float32(
      rng.uniform(0, 2, (6, 4)) * [0.1, 0.4, 0.8, 1])
  each = kl.astype(float).mean(0)
  assert (each[:2] < 0.5).all() and (each[2:] > 0.5).all()
  for beta, free, want in ((1.0, 0.0, each.sum()), (4.0, 0.0, 4 * each.sum()),
                           (2.0, 0.5, 2 * (0.5 + 0.5 + each[2:].sum()))):
    loss, logs = vae.objective(nats, kl, beta, free)
    assert loss == logs['g_loss']
    np.testing.assert_allclose(
        [loss, logs['reconstruction'], logs['kl']],
        [want - nats.mean(), -nats.mean(), each.sum()], rtol=1e-5)
  # What is free pulls no latent, the floor being of the mean, not of an image.
  pull = quick.jit(jax.grad(
      lambda kl: vae.objective(nats, kl, 2.0, 0.5)[0]))(kl)
  np.testing.assert_allclose(pull, [[0, 0, 2 / 6, 2 / 6]] * 6, rtol=1e-6)


@pytest.mark.parametrize('given', [
    {'sigma': 0.4},
    {'likelihood': 'bernoulli', 'prior': 'class', 'beta': 4.0, 'b1': 0.5},
    {'conditional': False, 'prior': 'class', 'beta': 0.5, 'sigma': 0.0,
     'free_bits': 0.4}], ids=str)
def test_steps_are_those_of_torch(monkeypatch, given):
  torch = pytest.importorskip('torch')
  from tests.torch_twins import layout
  from tests.torch_twins import vae as torch_vae
  model = vae.build(SPEC, **SMALL, ema_decay=0.15, **given)
  hyper = registry.arguments(vae.build) | SMALL | given
  state, rng = quick.jit(model.init)(KEY), np.random.default_rng(0)
  net = layout.load(torch_vae.Vae(SPEC, hyper).double(), *state.net[:2])
  opt = torch.optim.Adam(net.parameters(), hyper['lr'], (hyper['b1'], 0.999))
  ema = _flat(state.ema)

  def run(state, batch, noise):
    with monkeypatch.context() as m:
      m.setattr(jax.random, 'normal', lambda key, shape: noise)
      return model.step(state, batch, KEY)
  step = quick.jit(run)
  for i in range(3):
    batch, noise = _batch(seed=i), np.float32(rng.normal(size=(6, 5)))
    new, logs = step(state, batch, noise)
    want = torch_vae.step(
        net, opt, layout.nchw(torch.tensor(batch['image'][0] / 127.5 - 1)),
        torch.tensor(batch['label'][0]).long(), torch.tensor(noise).double(),
        hyper)
    for name, value in want.items():
      np.testing.assert_allclose(logs[name], value.item(), rtol=1e-4)
    grads = jax.tree.map(
        lambda new, old: (np.asarray(new) - hyper['b1'] * np.asarray(old)) / (
            1 - hyper['b1']),
        new.net.opt[0].mu, state.net.opt[0].mu)
    for path, weight, got in layout.pairs(net, grads):
      grad = weight.grad.numpy()
      np.testing.assert_allclose(got, grad, err_msg=str(path),
                                 atol=1e-4 * max(1.0, np.abs(grad).max()))
    for path, weight, got in layout.pairs(net, new.net.params):
      np.testing.assert_allclose(got, weight.detach(), atol=1e-4,
                                 err_msg=str(path))
    for path, mean, got in layout.pairs(net, new.net.stats):
      # PyTorch divides variances by n - 1.
      np.testing.assert_allclose(got, mean, atol=1e-5, err_msg=str(path),
                                 rtol=1e-4 if path[-1] == 'mean' else 0.03)
    decay = (0.1, 0.15, 0.15)[i]  # 1/10, then the ceiling is below 2/11.
    now = _flat({'params': new.net.params, 'batch_stats': new.net.stats})
    ema = {k: decay * v + (1 - decay) * now[k] for k, v in ema.items()}
    for name, got in _flat(model.variables(new)).items():
      np.testing.assert_allclose(got, ema[name], atol=1e-5, err_msg=name)
    state = new


def test_step_is_pure_and_safe_to_donate():
  model = vae.build(SPEC, **TINY, mirror=True, prior='class', sigma=0.0)
  batch, state = _batch(), quick.jit(model.init)(KEY)
  kept = jax.tree.map(np.array, state)
  step = quick.jit(model.step, donate_argnums=0)
  first, logs = step(state, batch, KEY)
  def run(key=KEY, **given):
    return step(jax.tree.map(jnp.array, kept._replace(**given)), batch, key)[0]
  jax.tree.map(np.testing.assert_array_equal, first, run())
  for other in run(step=np.int32(1)), run(jax.random.key(7)):
    assert not np.array_equal(first.net.params['decoder']['image']['bias'],
                              other.net.params['decoder']['image']['bias'])
  assert {*logs} == {'g_loss', 'reconstruction', 'kl'}
  assert model.d_steps == 1 and type(first) is vae.VaeState
  assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == (
      jax.tree.map(lambda x: (x.shape, x.dtype), kept))


def test_mirror_flips_half_of_the_images():
  one, two = (vae.build(SPEC, **TINY, mirror=mirror)
              for mirror in (False, True))
  batch, state = _batch(size=1), quick.jit(one.init)(KEY)
  turned = {**batch, 'image': batch['image'][:, :, :, ::-1]}
  plain, mirrored = quick.jit(one.step), quick.jit(two.step)
  seen = []
  for key in jax.random.split(KEY, 16):
    got, same, flipped = (
        float(step(state, x, key)[1]['g_loss'])
        for step, x in ((mirrored, batch), (plain, batch), (plain, turned)))
    assert abs(same - flipped) > 1e-2
    seen.append(abs(got - same) < abs(got - flipped))
    assert min(abs(got - same), abs(got - flipped)) < 1e-3
  assert 3 < sum(seen) < 13


def test_samples_are_of_the_average_and_of_the_prior():
  model = vae.build(SPEC, **TINY, prior='class', conditional=False)
  variables = model.variables(quick.jit(model.init)(KEY))
  sample, params = quick.jit(model.sample), variables['params']
  zero, one = np.zeros(4, np.int32), np.ones(4, np.int32)
  # All classes are alike until their priors are not.
  np.testing.assert_array_equal(sample(variables, KEY, zero),
                                sample(variables, KEY, one))
  table = params['prior_mean']['embedding']
  assert table.shape == (SPEC.num_classes, 3)
  def moved(**tables):
    new = {name: {'embedding': value} for name, value in tables.items()}
    return {**variables, 'params': {**params, **new}}
  other = moved(prior_mean=table.at[1].set(2.0))
  np.testing.assert_array_equal(sample(variables, KEY, zero),
                                sample(other, KEY, zero))
  assert np.abs(sample(variables, KEY, one) - sample(other, KEY, one)).max() > (
      1e-3)
  # Where a class has no variance, its images are one.
  still = sample(moved(prior_log_variance=table - 100.0), KEY, one)
  np.testing.assert_allclose(still, still[:1].repeat(4, 0), atol=1e-6)
  assert np.ptp(sample(variables, KEY, one), axis=0).max() > 1e-3


def test_labels_are_seen_where_the_model_is_conditional():
  labels, batch = np.zeros(4, np.int32), _batch()
  for conditional in True, False:
    model = vae.build(SPEC, **TINY, conditional=conditional)
    state = quick.jit(model.init)(KEY)
    variables, sample = model.variables(state), quick.jit(model.sample)
    a, b = (sample(variables, KEY, labels + k) for k in range(2))
    assert np.array_equal(a, b) != conditional
    step = quick.jit(model.step)
    state = step(state, batch, KEY)[0]  # The tables part ways.
    c, d = (step(state, {**batch, 'label': (batch['label'] + k) % 3}, KEY)[1]
            for k in range(2))
    assert (c['kl'] == d['kl']) != conditional  # Of the encoder alone.


def test_number_of_parameters():
  spec = types.ImageSpec(28, 28, 1, 10)
  model = vae.build(spec, z_dim=32, widths=(32, 64), embed_dim=16)
  norms = 2 * 10 * np.array([32, 64, 64, 32, 32])
  encoder = 16 * 32 + 16 * 32 * 64 + 49 * 64 * 64 + 64 + norms[:2].sum()
  decoder = (10 * 16 + 48 * 49 * 64 + 16 * 64 * 32 + 16 * 32 * 32 + 49 * 32 + 1
             + norms[2:].sum())
  assert model.parameters(jax.eval_shape(model.init, KEY)) == {
      'encoder': encoder, 'decoder': decoder}


@pytest.mark.parametrize('given', [
    {'likelihood': 'bernoulli'}, {'sigma': 0.0}], ids=str)
def test_a_vae_learns_a_pattern_a_class(given):
  spec = types.ImageSpec(8, 4, 1, 3)
  patterns = np.zeros((3, 8, 4, 1), np.uint8)
  patterns[0, :4], patterns[1, :, :2], patterns[2, 2:6] = 255, 255, 255
  model = vae.build(spec, z_dim=3, widths=(8,), embed_dim=4, lr=1e-2,
                    ema_decay=0.9, **given)
  labels = np.tile(np.arange(3, dtype=np.int32), 4)[None]
  batch = {'image': patterns[labels], 'label': labels}
  state = quick.jit(model.init)(KEY)
  step = quick.jit(model.step, donate_argnums=0)
  for _ in range(150):
    state, _ = step(state, batch, KEY)
  images = quick.jit(model.sample)(
      model.variables(state), jax.random.key(5), labels[0])
  far = np.abs(images - (patterns[labels[0]] / 127.5 - 1)).mean((1, 2, 3))
  assert far.max() < 0.1  # Random images are at 1.
  if 'sigma' in given:  # From 1: little is left to explain.
    assert np.exp(state.net.params['log_sigma']) < 0.4


@pytest.mark.parametrize('given, line', [
    ({'widths': (8, 8, 8)}, 'widths: 3 halvings of 12x8 leave a rest; expected '
     'a size divisible by 8, see config.data.resize'),
    ({'likelihood': 'gausian'}, "likelihood: .* Did you mean 'gaussian'"),
    ({'mirror': 2}, 'mirror: 2; '),
], ids=str)
def test_values_that_cannot_be_are_one_line(given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', 'vae', given, 'x', SPEC)
  assert '\n' not in str(e.value)
