"""Every way to a convolution against the stock one in float64, and PyTorch."""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxaug.nn.cpu import convolution, onednn, products
from tests import quick

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
    (2, 2, 3, 1, 1, ((1, 1), (1, 1))), (4, 5, 4, 1, 1, 'VALID')]
SAME = (8, 7, 3, 1, 1, 'SAME')
STRIDED = (9, 6, 4, 2, 1, ((1, 1), (1, 1)))
TRANSPOSED = (7, 4, 4, 1, 2, ((2, 2), (2, 2)))
CHANNELS = [(1, 6), (6, 1), (5, 16), (16, 5), (33, 40)]
GROUPS = [(6, 1, 6), (6, 1, 12), (2, 3, 4), (3, 2, 9)]  # groups, each, out
WAYS = 'onednn', 'products'


def _sweep(names, cases, few, fewer):
  """Every case by both ways; not slow are few by oneDNN, fewer by products.

  few, fewer: the indices of cases that have no like among them.
  """
  return pytest.mark.parametrize(f'way, {names}', [
      pytest.param(way, *case, id='-'.join(map(str, (way, *case))),
                   marks=[] if i in default else [pytest.mark.slow])
      for i, case in enumerate(cases)
      for way, default in zip(WAYS, (few, fewer), strict=True)],
                                 indirect=['way'])


# A transposed one strides too.
_EACH = pytest.mark.parametrize('case', [
    SAME, pytest.param(STRIDED, marks=pytest.mark.slow), TRANSPOSED], ids=str)


@pytest.fixture(params=WAYS, autouse=True, scope='module')
def way(request):
  """Both of what there is besides stock XLA."""
  if request.param == 'onednn':
    try:
      onednn.library()
    except onednn.Unavailable as e:
      pytest.skip(f'no oneDNN: {e}')
  jax.clear_caches()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(convolution, 'way', lambda *_: (request.param, ''))
    yield request.param
  jax.clear_caches()


def _conv(conv, case, dilation=1, groups=1):
  stride, up, padding = case[3:6]
  return lambda x, kernel: conv(
      x, kernel, (stride,) * 2, padding, lhs_dilation=(up,) * 2,
      rhs_dilation=(dilation,) * 2, dimension_numbers=NHWC,
      feature_group_count=groups)


def _arrays(case, channels=(6, 5), dtype=jnp.float32, groups=1):
  height, width, k = case[:3]
  rng = np.random.default_rng(k)
  inputs, out = channels
  shapes = (4, height, width, inputs), (k, k, inputs // groups, out)
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
  return jax.tree.map(np.asarray, jax.tree.leaves(quick.jit(both)(x, kernel)))


def _error(got, want):
  got, want = (np.asarray(v, np.float64) for v in (got, want))
  assert got.shape == want.shape
  return np.abs(got - want).max() / max(np.abs(want).max(), 1e-9)


@functools.cache  # Of both ways.
def _wanted(case, channels, dilation, groups):
  """By the stock operation in float64."""
  with jax.enable_x64(True):
    return _both_orders(_conv(lax.conv_general_dilated, case, dilation, groups),
                        *_arrays(case, channels, jnp.float64, groups))


def _agrees(case, channels, dilation=1, groups=1):
  got = _both_orders(
      _conv(convolution.conv_general_dilated, case, dilation, groups),
      *_arrays(case, channels, groups=groups))
  want = _wanted(case, channels, dilation, groups)
  assert want[0].dtype == np.float64
  return max(map(_error, got, want)) < 1e-5


def _run(f, *args):
  """(Values of f, what computes it: a way of its convolutions, or 'stock')."""
  traced = quick.jit(f).trace(*args)
  lowered = traced.lower()
  by = ('stock' if 'jaxaug_convolution' not in str(traced.jaxpr) else
        'onednn' if 'jaxaug_onednn_' in lowered.as_text() else 'products')
  return lowered.compile()(*args), by


@_sweep('case', [(case,) for case in CASES],
        # Every kernel at both strides, and every stride with both paddings.
        (1, 2, 4, 7, 9, 10, 12, 15, *range(16, len(CASES))),
        (2, 4, 9, 15, 16, 17, 19, 20, 21, 24, 25, 28, 29))
def test_both_orders_agree_with_stock_in_float64(case):
  assert _agrees(case, (6, 5))


@_sweep('case, channels',
        itertools.product([SAME, STRIDED, TRANSPOSED], CHANNELS),
        (0, 1, 2, 3, 4, 6, 9, 10, 13), (2, 3, 6, 14))
def test_any_number_of_channels_agrees(case, channels, monkeypatch):
  monkeypatch.setattr(products, '_CHUNK', 4096)
  assert _agrees(case, channels)


@_sweep('dilation, case', itertools.product((2, 3), [
    SAME, (13, 12, *STRIDED[2:]), CASES[3], CASES[16],
    (9, 8, 3, 1, 2, ((3, 2), (4, 4)))]), (0, 2, 4, 6, 8), (1, 4, 5))
def test_dilated_kernels_agree(case, dilation):
  assert _agrees(case, (6, 5), dilation)


@_sweep('case, channels, dilation, groups', [
    ((9, 11, 3, 1, 1, 'SAME'), (6, 3), 1, 1),
    ((9, 8, 4, 1, 1, ((1, 2), (2, 1))), (5, 1), 1, 1),
    ((8, 13, 5, 1, 1, ((0, 3), (4, 1))), (5, 2), 1, 1),
    ((9, 11, 3, 1, 1, ((2, 2), (2, 2))), (6, 3), 2, 1),
    ((9, 11, 3, 1, 1, 'SAME'), (6, 3), 1, 3),
    ((17, 18, 3, 2, 1, 'SAME'), (6, 3), 1, 1),
    ((8, 9, 4, 1, 2, ((2, 2), (2, 2))), (3, 6), 1, 1)],
        range(7), ())
def test_few_channels_out_agree(case, channels, dilation, groups):
  """Also where several pixels are computed at once: even and odd sides."""
  assert _agrees(case, channels, dilation, groups)


@_sweep('case, given', itertools.product(
    [SAME, STRIDED, TRANSPOSED, CASES[3], CASES[20]], GROUPS),
        (0, 1, 2, 3, 7, 10, 11, 12, 17), (2, 7, 11, 17))
def test_groups_agree(case, given):
  groups, each, out = given
  assert _agrees(case, (groups * each, out), groups=groups)


@pytest.mark.parametrize('case, dilation, groups', [
    (SAME, 1, 1), (STRIDED, 1, 1), (STRIDED, 1, 3), (CASES[3], 2, 1),
    (TRANSPOSED, 1, 1), (TRANSPOSED, 1, 3)], ids=str)
def test_pytorch_agrees(case, dilation, groups):
  torch = pytest.importorskip('torch')
  k, stride, up = case[2:5]
  x, kernel = _arrays(case, (6, 9), groups=groups)
  f = _conv(convolution.conv_general_dilated, case, dilation, groups)
  shape = jax.eval_shape(f, x, kernel).shape
  dy = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  @quick.jit
  def run(x, kernel):
    y, pull = jax.vjp(f, x, kernel)
    return y, *pull(dy)
  def leaf(a, *axes):
    return torch.tensor(np.asarray(a, np.float64).transpose(axes).copy(),
                        requires_grad=True)
  images, weights = leaf(x, 0, 3, 1, 2), leaf(kernel, 3, 2, 0, 1)
  pads = [low for pad in case[5][::-1] for low in pad] if case[
      5] not in ('SAME', 'VALID') else [1, 1, 1, 1] if case[5] == 'SAME' else (
          [0] * 4)
  if up == 1:
    theirs = torch.nn.functional.conv2d(
        torch.nn.functional.pad(images, pads), weights, None, stride, 0,
        dilation, groups)
  else:  # Their kernel [I, O / groups, h, w], turned.
    split = weights.reshape(groups, 9 // groups, -1, k, k).swapaxes(1, 2)
    theirs = torch.nn.functional.conv_transpose2d(
        images, split.reshape(6, -1, k, k).flip(2, 3), None, up,
        k - 1 - pads[0], 0, groups)
  theirs.backward(torch.tensor(dy.transpose(0, 3, 1, 2), dtype=torch.float64))
  y, dx, dw = run(x, kernel)
  assert _error(y, theirs.detach().permute(0, 2, 3, 1)) < 1e-6
  assert _error(dx, images.grad.permute(0, 2, 3, 1)) < 1e-6
  assert _error(dw, weights.grad.permute(2, 3, 1, 0)) < 1e-6


@_EACH
def test_finite_differences_agree_at_both_orders_and_ways(case):
  conv = _conv(convolution.conv_general_dilated, case)
  x, kernel = _arrays(case, (3, 4))
  f = jax.jit(lambda *a: jnp.sin(conv(*a) / 3))
  check_grads(f, (x[:1], kernel), 2, ('fwd', 'rev'), 2e-2, 2e-2, 1e-2)


@pytest.mark.parametrize('case, value', [
    ((3, 3, 3, 1, 1, 'VALID'), [[9.]]),
    ((3, 3, 3, 1, 1, 'SAME'), [[4, 6, 4], [6, 9, 6], [4, 6, 4]]),
    # Every pixel paints 2x2 squares, 2 apart.
    ((2, 2, 2, 1, 2, ((1, 1), (1, 1))), np.ones((4, 4)))], ids=str)
def test_ones_by_hand(case, value):
  x, kernel = (jnp.ones_like(a) for a in _arrays(case, (1, 1)))
  y = _conv(convolution.conv_general_dilated, case)(x, kernel)
  np.testing.assert_array_equal(y[0, ..., 0], value)


@pytest.mark.parametrize('size, k, up, padding', [
    ((1, 8), 3, 1, ((0, 0), (0, 0))), ((1, 4), 4, 2, ((0, 0), (1, 1))),
    ((2, 3), 4, 1, ((1, 0), (2, 1)))], ids=str)
def test_no_pixel_is_left_of_images_below_the_kernel(size, k, up, padding):
  x, kernel = _arrays((*size, k), (128, 128))
  f, want = (_conv(conv, (*size, k, 1, up, padding)) for conv in (
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


@pytest.mark.parametrize('stride, padding', [
    ((1, 1), ((0, 0),)), ((1,), 'SAME')], ids=str)
def test_what_cannot_be_fails_as_stock_does(stride, padding):
  x, kernel = _arrays(SAME)
  said = []
  for conv in convolution.conv_general_dilated, lax.conv_general_dilated:
    with pytest.raises((TypeError, ValueError)) as e:
      conv(x, kernel, stride, padding, dimension_numbers=NHWC)
    said.append(str(e.value))
  assert said[0] == said[1]


@pytest.mark.parametrize('pads', [((-9, 19), (0, 2)), ((9, -4), (1, 1)),
                                  ((7, -7), (1, 1))], ids=str)
def test_padding_may_cut_all_of_the_images_off(pads):
  case = (3, 9, 3, 1, 1, pads)
  assert _agrees(case, (4, 3))


def test_without_jit_it_is_the_same():
  conv = _conv(convolution.conv_general_dilated, SAME)
  grad = jax.grad(functools.partial(_loss, conv), (0, 1))
  x, kernel = _arrays(SAME)
  want = quick.jit(grad)(x, kernel)
  with jax.disable_jit():
    got = grad(x, kernel)
  assert max(map(_error, got, want)) < 1e-6


def test_shard_map_that_checks_is_told_what_to_do():
  mesh = jax.make_mesh((1,), ('batch',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  conv = _conv(convolution.conv_general_dilated, SAME)
  x, kernel = _arrays(SAME)
  for check in False, True:
    mapped = quick.jit(jax.shard_map(
        conv, mesh=mesh, check_vma=check, out_specs=spec('batch'),
        in_specs=(spec('batch'), spec())))
    if check:
      with pytest.raises(NotImplementedError, match='check_vma=False'):
        mapped(x, kernel)
    else:
      assert _error(mapped(x, kernel), conv(x, kernel)) < 1e-6


def test_half_precision_that_onednn_refuses_is_computed_whole(monkeypatch, way):
  if way != 'onednn':
    pytest.skip('only there')
  target = onednn.target
  def refuse(*args, dtype, **given):
    if dtype == 'bfloat16':
      raise onednn.Unavailable('no')
    return target(*args, dtype=dtype, **given)
  monkeypatch.setattr(onednn, 'target', refuse)
  jax.clear_caches()
  test_bfloat16()
  jax.clear_caches()


@_EACH
def test_vmap_equals_a_loop(case):
  conv = _conv(convolution.conv_general_dilated, case)
  grad = jax.grad(functools.partial(_loss, conv), (0, 1))
  alone = quick.jit(grad)
  x, kernel = (np.stack([v, 2 * v, v - 1]) for v in map(np.array,
                                                        _arrays(case)))
  for axes in ((0, 0), (0, None), (None, 0)):
    args = [v if a == 0 else v[0] for v, a in zip((x, kernel), axes,
                                                  strict=True)]
    got = quick.jit(jax.vmap(grad, axes))(*args)
    for i in range(3):
      want = alone(*(v[i] if a == 0 else v for v, a in zip(args, axes,
                                                           strict=True)))
      assert max(_error(g[i], w) for g, w in zip(got, want, strict=True)) < 1e-5


@_EACH
def test_loops_branches_and_remat_change_nothing(case, way):
  x, kernel = _arrays(case)
  conv = _conv(convolution.conv_general_dilated, case)
  grad = jax.grad(functools.partial(_loss, conv), (0, 1))
  again = jax.grad(jax.checkpoint(functools.partial(_loss, conv)), (0, 1))
  def scan(x, kernel):
    body = lambda carry, i: (carry, grad(x * (i + 1), kernel))  # noqa: E731
    return jax.tree.map(lambda v: v[0], lax.scan(body, 0, jnp.arange(2.))[1])
  def cond(x, kernel):
    none = lambda *a: jax.tree.map(jnp.zeros_like, a)  # noqa: E731
    return lax.cond(x[0, 0, 0, 0] < 99, grad, none, x, kernel)
  alone, by = _run(grad, x, kernel)
  assert by == way
  for f in (scan, cond, again):
    got, by = _run(f, x, kernel)
    assert by == way and max(map(_error, got, alone)) < 1e-6


def test_eagerly_and_compiled_are_the_same():
  x, kernel = _arrays(SAME)
  conv = _conv(convolution.conv_general_dilated, SAME)
  np.testing.assert_array_equal(conv(x, kernel), jax.jit(conv)(x, kernel))


def test_bfloat16():
  conv = _conv(convolution.conv_general_dilated, SAME)
  x, kernel = _arrays(SAME)
  grad = quick.jit(jax.grad(functools.partial(_loss, conv), (0, 1)))
  want = conv(x, kernel), *grad(x, kernel)
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  got = conv(x, kernel), *grad(x, kernel)
  assert {v.dtype for v in got} == {jnp.dtype(jnp.bfloat16)}
  assert max(map(_error, got, want)) < 2e-2


def test_half_and_double_precision_keep_theirs(way):
  case = _conv(convolution.conv_general_dilated, SAME)
  x, kernel = _arrays(SAME, dtype=jnp.float16)
  assert case(x, kernel).dtype == jnp.float16
  with jax.enable_x64(True):
    x, kernel = (a + jnp.pi / 1e3 for a in _arrays(SAME, dtype=jnp.float64))
    want = quick.jit(_conv(lax.conv_general_dilated, SAME))(x, kernel)
    assert _error(case(x, kernel), want) < 1e-12


def test_the_stock_operation_serves_the_rest(monkeypatch, way):
  x, kernel = _arrays(SAME, (6, 4))
  def used(x, kernel, **more):
    ours, stock = (functools.partial(
        f, window_strides=(1, 1), padding='SAME', **more) for f in
        (convolution.conv_general_dilated, lax.conv_general_dilated))
    got, by = _run(ours, x, kernel)
    assert _error(got, quick.jit(stock)(x, kernel)) < 1e-5
    return by
  assert used(x, kernel, dimension_numbers=NHWC) == way
  assert used(x, kernel, dimension_numbers=NHWC, rhs_dilation=(2, 2)) == way
  assert used(x, kernel[:, :, :3], dimension_numbers=NHWC,
              feature_group_count=2) == way
  assert used(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)) == 'stock'
  half = (v.astype(jnp.bfloat16) for v in (x, kernel))
  assert used(*half, dimension_numbers=NHWC,
              preferred_element_type=jnp.float32) == 'stock'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert used(x, kernel, dimension_numbers=NHWC) == 'stock'


def test_taps_that_see_no_pixel_have_no_gradient_in_half_precision():
  """oneDNN 3.2 leaves them as the memory was."""
  x, w = (jnp.ones(s, jnp.bfloat16) for s in ((2, 2, 2, 16), (5, 5, 16, 16)))
  grad = jax.jit(jax.grad(lambda w: convolution.conv_general_dilated(
      x, w, (3, 3), 'SAME', dimension_numbers=NHWC).astype(jnp.float32).sum()))
  want = np.zeros((5, 5))
  want[1:3, 1:3] = 2  # One place of the kernel, two images.
  for _ in range(50):
    junk = [np.full(n, np.nan, np.float32) for n in range(1000, 40000, 1000)]
    del junk
    got = np.asarray(grad(w), np.float32)
    np.testing.assert_array_equal(got, np.broadcast_to(
        want[..., None, None], got.shape))
