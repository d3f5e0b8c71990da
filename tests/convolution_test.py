"""The convolution against the stock one in float64."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxaug import convolution

NHWC = ('NHWC', 'HWIO', 'NHWC')
CASES = [  # height, width, kernel, stride, input dilation, padding
    *((7, 10, k, s, 1, p) for k in (1, 3, 4, 5) for s in (1, 2)
      for p in ('SAME', 'VALID')),
    (9, 6, 3, 1, 1, ((1, 2), (0, 3))),
    (9, 6, 4, 2, 1, ((1, 1), (1, 1))),
    (8, 5, 5, 2, 1, ((2, 1), (0, 4))),
    (8, 5, 1, 2, 1, ((1, 0), (0, 0))),
    (6, 6, 3, 1, 1, ((-1, 0), (2, -1))),
    (7, 4, 4, 1, 2, ((2, 2), (2, 2))),
    (7, 4, 5, 1, 2, ((3, 2), (3, 3))),
    (4, 7, 3, 1, 2, ((2, 1), (0, 2))),
    (4, 7, 1, 1, 2, ((0, 1), (0, 0))),
    (4, 5, 6, 1, 3, ((2, 3), (3, 4))),
    (6, 5, 3, 2, 2, ((1, 1), (2, 1))),
    (8, 8, 2, 1, 1, ((2, 0), (2, 0))), (6, 7, 3, 1, 1, ((4, 0), (4, 0))),
]
# Stems, last layers, and both sides of the choice where to make columns; the
# chunk decides between one product, several, and one for each row of taps.
SAME = (8, 7, 3, 1, 1, 'SAME')
STRIDED = (9, 6, 4, 2, 1, ((1, 1), (1, 1)))
TRANSPOSED = (7, 4, 4, 1, 2, ((2, 2), (2, 2)))
NARROW = [(*case, channels, chunk) for case, channels, chunk in (
    (CASES[4], (1, 6), 2 ** 19), (CASES[4], (6, 1), 8),
    (CASES[4], (5, 12), 2 ** 19), (CASES[5], (12, 5), 4096),
    (CASES[13], (12, 5), 4096), (STRIDED, (1, 6), 8),
    (STRIDED, (12, 5), 2 ** 19), (TRANSPOSED, (12, 5), 4096),
    (TRANSPOSED, (6, 1), 8))]


def _conv(conv, case):
  stride, dilation, padding = case[3:6]
  return lambda x, kernel: conv(
      x, kernel, (stride,) * 2, padding, lhs_dilation=(dilation,) * 2,
      rhs_dilation=(1, 1), dimension_numbers=NHWC)


def _arrays(case, channels=(6, 5), dtype=jnp.float32):
  height, width, k = case[:3]
  rng = np.random.default_rng(k)
  shapes = (4, height, width, channels[0]), (k, k, *channels)
  return [jnp.asarray(rng.normal(size=s).astype(np.float32), dtype)
          for s in shapes]


def _loss(conv, x, kernel):
  return jnp.sum(jnp.sin(conv(x, kernel).astype(jnp.float32) / 3))


def _both_orders(conv, x, kernel):
  """Output, both gradients, and the gradients of a gradient penalty."""
  def first(x, kernel):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(conv(*a) / 3)), (0, 1))(x,
                                                                      kernel)
  def penalty(x, kernel):
    dx, dw = first(x, kernel)
    return jnp.sum(dx ** 2) + jnp.sum(jnp.cos(dw / 9))
  def both(x, kernel):
    return (conv(x, kernel), first(x, kernel),
            jax.grad(penalty, (0, 1))(x, kernel))
  return jax.tree.leaves(jax.jit(both)(x, kernel))


def _error(got, want):
  got, want = (np.asarray(v, np.float64) for v in (got, want))
  assert got.shape == want.shape
  return np.abs(got - want).max() / max(np.abs(want).max(), 1e-9)


def _agrees(case, channels):
  got = _both_orders(_conv(convolution.conv_general_dilated, case),
                     *_arrays(case, channels))
  with jax.enable_x64(True):
    want = _both_orders(_conv(lax.conv_general_dilated, case),
                        *_arrays(case, channels, jnp.float64))
    assert want[0].dtype == jnp.float64
  return max(map(_error, got, want)) < 1e-5


@pytest.mark.parametrize('case', CASES, ids=str)
def test_both_orders_agree_with_stock_in_float64(case):
  assert _agrees(case, (6, 5))


@pytest.mark.parametrize('case', NARROW, ids=str)
def test_every_way_to_the_kernel_gradient_agrees(case, monkeypatch):
  *case, channels, chunk = case
  monkeypatch.setattr(convolution, '_CHUNK', chunk)
  assert _agrees(case, channels)


@pytest.mark.parametrize('case', [
    (2, 2, 3, 1, 1, ((1, 1), (1, 1))), (4, 4, 5, 1, 1, ((2, 2), (2, 2))),
    (3, 4, 3, 2, 1, ((1, 1), (1, 1))), (4, 3, 3, 1, 1, 'VALID')], ids=str)
def test_tiny_images_agree(case):
  assert _agrees(case, (20, 7)) and _agrees(case, (7, 20))


@pytest.mark.parametrize('fold, gradient, case', [
    (1, True, STRIDED), (1, True, CASES[20]), (1, True, TRANSPOSED),
    (1, True, (4, 5, 6, 1, 2, ((3, 3), (2, 4)))),
    (1, True, (4, 5, 6, 1, 3, ((2, 3), (3, 4)))),
    (1, False, (9, 8, 5, 2, 1, 'VALID')),
    (2, True, (8, 5, 5, 2, 1, ((2, 1), (0, 4)))),
    (2, True, (7, 4, 5, 1, 2, ((3, 2), (3, 3)))),
    (2, True, (9, 8, 7, 1, 1, 'SAME')), (3, True, SAME)], ids=str)
def test_fewer_products_agree(fold, gradient, case, monkeypatch):
  """Winograd's way, forced upon narrow ones and with every folding."""
  monkeypatch.setattr(convolution, '_FEWER', {
      (k, stride): (fold, 1, 1, gradient)
      for k in range(2, 8) for stride in (1, 2, 3)})
  assert _agrees(case, (6, 5))


@pytest.mark.parametrize('k, stride, dilation, channels, least, most', [
    (3, 1, 1, (128, 128), 0.3, 0.6), (4, 2, 1, (64, 128), 0.3, 0.7),
    (4, 1, 2, (128, 64), 0.3, 0.7), (5, 2, 1, (64, 64), 0.3, 0.9),
    (6, 1, 2, (128, 64), 0.3, 0.6), (7, 1, 1, (64, 64), 0.3, 0.8),
    (3, 1, 1, (64, 128), 0.6, 1.1), (4, 2, 1, (8, 128), 0.6, 1.1)])
def test_wide_ones_take_fewer_products(k, stride, dilation, channels, least,
                                       most):
  pad = (k // 2 if dilation > 1 else (k - 1) // 2,) * 2
  case = (16 // dilation,) * 2 + (k, stride, dilation, (pad, pad))
  def flops(conv):
    program = jax.jit(_conv(conv, case)).lower(*_arrays(case, channels))
    return program.compile().cost_analysis()['flops']
  share = flops(convolution.conv_general_dilated) / flops(
      lax.conv_general_dilated)
  assert least < share < most


@pytest.mark.parametrize('size, k, dilation, padding', [
    ((1, 8), 3, 1, ((0, 0), (0, 0))), ((1, 4), 4, 2, ((0, 0), (1, 1))),
    ((2, 3), 4, 1, ((1, 0), (2, 1)))], ids=str)
def test_no_pixel_is_left_of_images_below_the_kernel(size, k, dilation,
                                                     padding):
  x, kernel = _arrays((*size, k), (128, 128))
  f, want = (_conv(conv, (*size, k, 1, dilation, padding)) for conv in (
      convolution.conv_general_dilated, lax.conv_general_dilated))
  assert f(x, kernel).shape == want(x, kernel).shape
  assert 0 in f(x, kernel).shape
  for grad in jax.grad(lambda x, w: f(x, w).sum(), (0, 1))(x, kernel):
    assert not grad.any()


def test_groups_that_cannot_be_fail_as_stock_does():
  x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 6))
  for conv in convolution.conv_general_dilated, lax.conv_general_dilated:
    with pytest.raises(ValueError, match='feature_group_count'):
      conv(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC,
           feature_group_count=6)


@pytest.mark.parametrize('groups, each, out', [(6, 1, 6), (6, 1, 12), (2, 3, 4),
                                               (3, 2, 9)])
@pytest.mark.parametrize('case', [SAME, STRIDED, CASES[3], CASES[20]], ids=str)
def test_groups_agree_with_stock_in_float64(case, groups, each, out):
  def both(conv, dtype):
    def f(x, kernel):
      return conv(x, kernel, (case[3],) * 2, case[5], dimension_numbers=NHWC,
                  feature_group_count=groups)
    x, kernel = _arrays(case, (groups * each, out), dtype)
    kernel = kernel[:, :, :each]
    return _both_orders(f, x, kernel)
  got = both(convolution.conv_general_dilated, jnp.float32)
  with jax.enable_x64(True):
    want = both(lax.conv_general_dilated, jnp.float64)
  assert max(map(_error, got, want)) < 1e-5


@pytest.mark.parametrize('case', [SAME, TRANSPOSED], ids=str)
def test_vmap_equals_a_loop(case, monkeypatch):
  monkeypatch.setattr(convolution, '_CHUNK', 2048)
  conv = _conv(convolution.conv_general_dilated, case)
  grad = jax.grad(functools.partial(_loss, conv), (0, 1))
  x, kernel = (jnp.stack([v, 2 * v, v - 1]) for v in _arrays(case))
  for axes in ((0, 0), (0, None), (None, 0)):
    args = [v if a == 0 else v[0] for v, a in zip((x, kernel), axes,
                                                  strict=True)]
    got = jax.jit(jax.vmap(grad, axes))(*args)
    for i in range(3):
      want = grad(*(v[i] if a == 0 else v for v, a in zip(args, axes,
                                                          strict=True)))
      assert max(_error(g[i], w) for g, w in zip(got, want, strict=True)) < 1e-5


@pytest.mark.parametrize('case', [SAME, STRIDED, TRANSPOSED], ids=str)
def test_in_loops_the_values_and_the_fast_layout_stay(case, monkeypatch):
  monkeypatch.setattr(convolution, '_CHUNK', 2048)
  x, kernel = _arrays(case)
  grad = jax.grad(functools.partial(
      _loss, _conv(convolution.conv_general_dilated, case)), (0, 1))
  def scan(x, kernel):
    body = lambda carry, i: (carry, grad(x * (i + 1), kernel))  # noqa: E731
    return lax.scan(body, 0, jnp.arange(2.))[1]
  def cond(x, kernel):
    none = lambda *a: jax.tree.map(jnp.zeros_like, a)  # noqa: E731
    return lax.cond(x[0, 0, 0, 0] < 99, grad, none, x, kernel)
  alone = jax.jit(grad)(x, kernel)
  for loop in (scan, cond):
    compiled = jax.jit(loop).lower(x, kernel).compile()
    got = compiled(x, kernel)
    got = jax.tree.map(lambda v: v[0], got) if loop is scan else got
    assert max(map(_error, got, alone)) < 1e-6
    # XLA's fast kernels know one layout only.
    labels = set(re.findall(r'dim_labels=(\w+->\w+)', compiled.as_text()))
    assert labels == {'b01f_01io->b01f'}


def test_bfloat16():
  conv = _conv(convolution.conv_general_dilated, SAME)
  x, kernel = _arrays(SAME)
  grad = jax.jit(jax.grad(functools.partial(_loss, conv), (0, 1)))
  want = conv(x, kernel), *grad(x, kernel)
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  got = conv(x, kernel), *grad(x, kernel)
  assert {v.dtype for v in got} == {jnp.dtype(jnp.bfloat16)}
  assert max(map(_error, got, want)) < 2e-2


def test_the_stock_operation_serves_the_rest(monkeypatch):
  x, kernel = _arrays(SAME, (6, 4))
  def used(x, kernel, **more):
    """Whether the fast path is; the values are the stock ones anyway."""
    fast, stock = (functools.partial(
        f, window_strides=(1, 1), padding='SAME', **more) for f in
        (convolution.conv_general_dilated, lax.conv_general_dilated))
    assert _error(fast(x, kernel), stock(x, kernel)) < 1e-5
    return 'custom_vjp' in str(jax.make_jaxpr(fast)(x, kernel))
  assert used(x, kernel, dimension_numbers=NHWC)
  assert not used(x, kernel, dimension_numbers=NHWC, rhs_dilation=(2, 2))
  assert used(x, kernel[:, :, :3], dimension_numbers=NHWC,
              feature_group_count=2)
  assert not used(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not used(x, kernel, dimension_numbers=NHWC)


def test_conv_of_doubled_keeps_double_precision():
  with jax.enable_x64(True):
    x, w = _arrays((4, 5, 3), dtype=jnp.float64)
    x, w = (a + jnp.pi / 1e3 for a in (x, w))  # No float32 value.
    got = convolution.conv_of_doubled(x, w, (1, 1), 'SAME',
                                      dimension_numbers=NHWC)
    want = lax.conv_general_dilated(
        x.repeat(2, 1).repeat(2, 2), w, (1, 1), 'SAME', dimension_numbers=NHWC)
    assert _error(got, want) < 1e-12


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 7])
def test_conv_of_doubled_is_that_of_the_image_doubled(size):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(size)
  x, w = (np.float32(rng.normal(size=shape))
          for shape in ((2, 5, 4, 3), (size, size, 3, 6)))
  def ours(x, w):
    return convolution.conv_of_doubled(x, w, (1, 1), 'SAME',
                                       dimension_numbers=NHWC)
  y, pull = jax.vjp(ours, x, w)
  assert y.shape == (2, 10, 8, 6)
  leaves = [torch.tensor(a.transpose(axes).copy(), dtype=torch.float64,
                         requires_grad=True)
            for a, axes in ((x, (0, 3, 1, 2)), (w, (3, 2, 0, 1)))]
  low = (size - 1) // 2
  double = torch.nn.functional.interpolate(leaves[0], scale_factor=2)
  double = torch.nn.functional.pad(double, 2 * (low, size - 1 - low))
  want = torch.nn.functional.conv2d(double, leaves[1])
  want.square().sum().backward()
  for got, known, axes in (
      (y, want.detach(), (0, 2, 3, 1)),
      *zip(pull(2 * y), (leaf.grad for leaf in leaves),
           ((0, 2, 3, 1), (2, 3, 1, 0)), strict=True)):
    known = known.numpy().transpose(axes)
    np.testing.assert_allclose(got, known, atol=1e-6 * np.abs(known).max())
