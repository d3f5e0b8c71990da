"""Every generator's training step beside the same in PyTorch, as Pairs.

Each function takes (spec, batch size, settings of `build`), compares what the
two sides generate from the same weights and noise, and returns the step, twice.
DiffAugment and mirroring, a hundredth of a step, are on neither side.
"""
import copy
import functools

import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks import pairs
from jaxaug.core import registry
from tests.torch_twins import biggan as torch_biggan
from tests.torch_twins import cgan as torch_cgan
from tests.torch_twins import gans as torch_gans
from tests.torch_twins import layout
from tests.torch_twins import pyramid as torch_pyramid
from tests.torch_twins import vae as torch_vae
from tests.torch_twins.layout import nchw, nhwc

_ADAM = functools.partial(torch.optim.Adam, fused=True)


def _open(name, spec, batch_size, settings):
  """Returns (model, hyper, state, images, labels) of both sides' start."""
  build = registry.find('generators', name).build
  given = {k: v for k, v in {'diff_augment': '', 'mirror': False}.items()
           if k in registry.arguments(build)} | settings
  model = build(spec, **given)
  return (model, registry.arguments(build) | given,
          jax.jit(model.init)(jax.random.key(0)),
          *pairs.batch(spec, batch_size * model.d_steps))


def _compare(name, model, state, labels, theirs):
  """Raises AssertionError where `theirs(z, labels)` is not what we decode."""
  rng = np.random.default_rng(1)
  z = np.float32(rng.normal(size=(len(labels), model.z_dim)))
  with torch.no_grad():
    images = theirs(torch.from_numpy(z), torch.from_numpy(labels).long())
  ours = jax.jit(model.decode)(model.variables(state), z, labels)
  pairs.compare(name, ours, nhwc(images))


def _pair(model, state, images, labels, step) -> pairs.Pair:
  batch = {'image': images.reshape(model.d_steps, -1, *images.shape[1:]),
           'label': labels.reshape(model.d_steps, -1)}
  return pairs.Pair(
      sum(model.parameters(state).values()),
      *pairs.compiled(model.step, state, batch, jax.random.key(1)), step)


def _averaging(decay, *nets):
  """Returns average(): moves an average of all weights and statistics."""
  live = [x.data for net in nets for x in (*net.parameters(), *net.buffers())
          if x.is_floating_point()]
  kept = [x.clone() for x in live]
  return lambda: torch._foreach_lerp_(kept, live, 1 - decay)


def _floats(images):
  return nchw(torch.from_numpy(images)).float() / 127.5 - 1


def _hinge_step(hyper, g, d, images, y):
  """One update of D and of G by Adam with the hinge loss, as cgan has it."""
  betas = hyper['b1'], hyper['b2']
  g_opt, d_opt = (_ADAM(net.parameters(), hyper[name], betas)
                  for net, name in ((g, 'g_lr'), (d, 'd_lr')))
  average = _averaging(hyper['ema_decay'], g)

  def fakes():
    return g(torch.randn(len(y), hyper['z_dim']), y)

  def d_update(fake):
    both = nchw(torch.cat([nhwc(_floats(images)), nhwc(fake)]))
    on_real, on_fake = d(both, y.repeat(2)).chunk(2)
    loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    d_opt.zero_grad()
    loss.backward()
    d_opt.step()
    return {'d_loss': loss, 'd_accuracy_real': (on_real > 0).float().mean(),
            'd_accuracy_fake': (on_fake < 0).float().mean()}

  def step():
    if hyper['fresh_fakes']:
      with torch.no_grad():
        fake = fakes()
      logs = d_update(fake)
      fake = fakes()
    else:
      fake = fakes()
      logs = d_update(fake.detach())
    d.requires_grad_(False)  # Spares gradients that nobody reads.
    loss = -d(fake, y).mean()
    g_opt.zero_grad()
    loss.backward()
    g_opt.step()
    d.requires_grad_(True)
    average()
    return {'g_loss': loss, **logs}
  return step


def cgan(spec, batch_size, settings) -> pairs.Pair:
  """Of `generators.cgan`, whose loss is the hinge."""
  model, hyper, state, images, labels = _open('cgan', spec, batch_size,
                                              settings)
  g = pairs.twin(torch_cgan.Generator(spec, hyper), state.g.params)
  d = pairs.twin(torch_cgan.Discriminator(spec, hyper), state.d.params)
  _compare('cgan', model, state, labels, copy.deepcopy(g).eval())
  if hyper['spectral_norm']:
    d.normalise()
  y = torch.from_numpy(labels).long()
  return _pair(model, state, images, labels,
               _hinge_step(hyper, g, d, images, y))


def two_passes(name, spec, batch_size, settings) -> pairs.Pair:
  """Of dcgan and acgan, whose D sees real and generated images apart."""
  model, hyper, state, images, labels = _open(name, spec, batch_size, settings)
  g, d = (pairs.twin(make(spec, hyper), net.params) for make, net in zip(
      torch_gans.NETWORKS[name], (state.g, state.d), strict=True))
  _compare(name, model, state, labels, copy.deepcopy(g).eval())
  betas = hyper['b1'], hyper['b2']
  g_opt, d_opt = (_ADAM(net.parameters(), hyper[lr], betas)
                  for net, lr in ((g, 'g_lr'), (d, 'd_lr')))
  average = _averaging(hyper['ema_decay'], g)
  y = torch.from_numpy(labels).long()

  def noise():
    return torch.randn(len(y), hyper['z_dim'])

  def step():
    logs = torch_gans.step(
        g, d, g_opt, d_opt, _floats(images), y, noise(),
        class_loss=hyper['class_loss'],
        fresh_noise=noise() if hyper['fresh_fakes'] else None)
    average()
    return logs
  return _pair(model, state, images, labels, step)


def biggan(spec, batch_size, settings) -> pairs.Pair:
  """Of `generators.biggan`."""
  # Of the images alone: a step is the same.
  model, hyper, state, images, labels = _open(
      'biggan', spec, batch_size, settings | {'statistics': 'batch'})
  g, d = (layout.load(make(spec, hyper), net.params, net.stats).to(
      memory_format=torch.channels_last) for make, net in (
          (torch_biggan.Generator, state.g),
          (torch_biggan.Discriminator, state.d)))
  _compare('biggan', model, state, labels, copy.deepcopy(g).train())
  update, _ = torch_biggan.training(g, d, hyper)
  shape = model.d_steps, batch_size
  x = torch.from_numpy(images).view(*shape, *images.shape[1:])
  y = torch.from_numpy(labels).long().view(shape)
  return _pair(model, state, images, labels, lambda: update(x, y))


class _GrowingSgd:
  """SGD whose momentum grows, and damps the gradient by as much."""

  def __init__(self, net, rate, growth, limit):
    self.opt = torch.optim.SGD(net.parameters(), rate, fused=True)
    self.growth, self.limit, self.done = growth, limit, 0

  def step(self, loss):
    self.opt.zero_grad()
    loss.backward()
    momentum = min(self.growth * self.done, self.limit)
    self.opt.param_groups[0].update(momentum=momentum, dampening=momentum)
    self.opt.step()
    self.done += 1


def _level_step(hyper, g, d, i):
  """Returns update(real, labels) of one level: D once, and G."""
  g_opt, d_opt = (_GrowingSgd(net, hyper[rate], hyper['momentum_growth'],
                              hyper['momentum_limit'])
                  for net, rate in ((g, 'g_lr'), (d, 'd_lr')))
  average = _averaging(hyper['ema_decay'], g)

  def fakes(real, y):
    size = real.shape[2] * real.shape[3] if i else hyper['z_dim']
    z = 2 * torch.rand(len(y), size) - 1
    if not i:
      return g(z, y)
    return g(z, y, torch_pyramid.double(torch_pyramid.halve(real)))

  def update(real, y):
    with torch.no_grad():
      fake = fakes(real, y)
    on_real, on_fake = d(torch.cat([real, fake]), y.repeat(2)).chunk(2)
    d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
    d_opt.step(d_loss)
    d.requires_grad_(False)
    g_loss = F.softplus(-d(fakes(real, y), y)).mean()
    g_opt.step(g_loss)
    d.requires_grad_(True)
    average()
    return {'d_loss': d_loss, 'g_loss': g_loss}
  return update


def pyramid(name, spec, batch_size, settings) -> pairs.Pair:
  """Of ccgan and lapgan."""
  model, hyper, state, images, labels = _open(name, spec, batch_size, settings)
  levels = [tuple(pairs.twin(net, of.params) for net, of in zip(
      nets, (level.g, level.d), strict=True)) for nets, level in zip(
          getattr(torch_pyramid, name)(spec, hyper), state.levels, strict=True)]
  sizes = [hyper['z_dim'], *((spec.height >> n) * (spec.width >> n)
                             for n in reversed(range(len(levels) - 1)))]
  _compare(name, model, state, labels, lambda z, y: torch_pyramid.sample(
      levels, z.split(sizes, 1), y, 0., 1.))
  updates = [_level_step(hyper, g, d, i) for i, (g, d) in enumerate(levels)]
  y = torch.from_numpy(labels).long()

  def step():
    real = [_floats(images)]
    for _ in levels[1:]:
      real.insert(0, torch_pyramid.halve(real[0]))
    return [update(x, y) for update, x in zip(updates, real, strict=True)][-1]
  return _pair(model, state, images, labels, step)


def vae(spec, batch_size, settings) -> pairs.Pair:
  """Of `generators.vae`."""
  model, hyper, state, images, labels = _open('vae', spec, batch_size, settings)
  net = pairs.twin(torch_vae.Vae(spec, hyper), state.net.params)
  decoder = copy.deepcopy(net['decoder']).eval()
  _compare('vae', model, state, labels,
           lambda z, y: torch.tanh(decoder(z, y) / 2))
  opt = _ADAM(net.parameters(), hyper['lr'], (hyper['b1'], hyper['b2']))
  average = _averaging(hyper['ema_decay'], net)
  y = torch.from_numpy(labels).long()

  def step():
    noise = torch.randn(len(y), hyper['z_dim'])
    logs = torch_vae.step(net, opt, _floats(images), y, noise, hyper)
    average()
    return logs
  return _pair(model, state, images, labels, step)
