"""Collapse, interpolation and adaptation: what training does beside steps."""
import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import files, interrupts, types
from jaxaug.data import images, mixing, pixels
from jaxaug.evaluation import collapse
from jaxaug.study import results
from jaxaug.study.stages import generate
from jaxaug.training import mesh, metrics_log
from tests.evaluation.curve_test import looks

DEVICES = mesh.make()
SPEC = types.ImageSpec(28, 28, 1, 10)
STEPS = 20


# ------------------------------------------------------------- the training
def model(garments, fails='', at=10):
  """Shows real images of the class, under ever less noise; from step `at` on
  it `fails`: 'constant', 'twins' (one image a class) or 'deaf' to labels."""
  bank = jnp.asarray(garments.train.images / 127.5 - 1, jnp.float32)
  rows = jnp.stack([np.flatnonzero(garments.train.labels == k)[100:300]
                    for k in range(10)])
  def sample(variables, key, labels, given=None):
    keys = jax.random.split(key, 3)
    late = variables['step'] > at
    early = variables['step'] < 5
    deaf = early | (late if fails == 'deaf' else False)
    asked = jnp.where(deaf, jax.random.permutation(keys[0], labels), labels)
    pick = jax.random.randint(keys[1], labels.shape, 0, 200)
    pick = jnp.where(late, 0, pick) if fails in ('constant', 'twins') else pick
    asked = jnp.where(late, 0, asked) if fails == 'constant' else asked
    noise = jax.random.uniform(keys[2], (len(labels), 28, 28, 1), minval=-1)
    share = 0.5 * jnp.exp(-variables['step'] / 5)
    share = jnp.where(late & (fails in ('constant', 'twins')), 0, share)
    return bank[rows[asked, pick]] * (1 - share) + noise * share
  def step(state, batch, key):
    return {'step': state['step'] + 1}, {'g_loss': state['step']}
  return types.GenerativeModel(
      lambda key: {'step': jnp.float32(0)}, step, lambda state: state, sample,
      lambda state: {'g': 1})


def trained(folder, made, train, curve=None, **given):
  return generate.run(
      folder, name='g', spec=SPEC, train=train, train_digest='', model=made,
      seed=0, devices=DEVICES, curve=curve, **{
          'steps': STEPS, 'batch_size': 8, 'log_every': 3, 'save_every': 4,
          'sample_every': STEPS, **given})


@pytest.fixture(scope='module')
def curve(by_pixel, validation, train):
  return looks(by_pixel, validation, train)


@pytest.mark.parametrize('fails, number', [
    ('', None), ('constant', 'obedience'), ('twins', 'diversity'),
    ('deaf', 'obedience')])
def test_collapse_ends_a_training_with_the_best_kept(
    tmp_path, garments, train, curve, fails, number):
  made, folder = model(garments, fails), files.folder(tmp_path, 'g')
  found = trained(folder, made, train, curve)
  records = metrics_log.read(folder.final)
  steps = [r['step'] for r in records if curve.name in r]
  obeyed = [r['obedience_pixels'] for r in records if curve.name in r]
  assert max(obeyed[:2]) < 0.2 < 0.5 < min(obeyed[2:5])  # Chance, then not.
  if not number:
    assert found['collapsed_at'] is found['collapsed'] is None
    assert steps[-1] == STEPS and collapse.words(found) == ''
    return
  assert found['collapsed_at'] == steps[-1] == 14  # The second look after 10.
  assert found['collapsed']['number'] == number
  assert found['chosen_step'] == 10 and generate.read(
      folder, made, SPEC, 0).variables() == {'step': 10}
  # The loop ended as after a last step: a record and a grid.
  assert [r['step'] for r in records if 'g_loss' in r] == [3, 6, 9, 12, 14]
  assert records[-1]['g_loss'] == np.mean([12, 13])
  assert [f.name for f in (folder.final / 'samples').iterdir()] == [
      'step_000014.png']
  entry = results.generator(generate.read(folder, made, SPEC, 0), 'model')
  assert [entry[k] for k in ('steps', 'collapsed_at', 'chosen_step')] == [
      STEPS, 14, 10]
  last = entry['choice'][-1][f'{number}_pixels']
  assert entry['collapsed']['now'] == np.float32(last)
  assert entry['collapsed']['best'] == np.float32(max(
      point[f'{number}_pixels'] for point in entry['choice'][2:]))
  words = {'obedience': 'label obedience fell to', 'diversity':
           'diversity fell to 0.0 % from'}[number]
  assert collapse.words(found).startswith(f'stopped at step 14: {words}')
  assert collapse.words(found).endswith('the weights of step 10 are used')


def whole(folder):
  """All that must be equal; the manifest without its times and places."""
  kept = {k: v for k, v in files.manifest(folder.final).items()
          if k not in ('seconds', 'folder', 'files')}
  arrays = files.load_npz(folder.final / 'variables.npz')
  return (json.dumps(kept), {k: v.tobytes() for k, v in arrays.items()},
          (folder.final / 'metrics.jsonl').read_bytes())


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, garments, train, curve):
  folder = files.folder(tmp_path_factory.mktemp('g'), 'g')
  made = model(garments, 'deaf')
  trained(folder, made, train, curve)
  return made, whole(folder)


@pytest.mark.parametrize('look', range(1, 8))
def test_a_kill_at_any_look_changes_no_bit(tmp_path, train, curve, undisturbed,
                                           look):
  made, want = undisturbed
  folder, left = files.folder(tmp_path, 'g'), [look]
  def score(drawn):
    left[0] -= 1
    if not left[0]:
      raise KeyboardInterrupt
    return curve.score(drawn)
  with pytest.raises(KeyboardInterrupt):
    trained(folder, made, train, curve._replace(score=score))
  trained(folder, made, train, curve)
  assert whole(folder) == want


@pytest.mark.parametrize('how', ['signal', 'kill', 'saved'])
def test_nothing_is_trained_after_the_stop(tmp_path, train, curve, undisturbed,
                                           monkeypatch, how):
  """Asked to stop in that very step; killed before the manifest, with a
  checkpoint of that step or of one before it."""
  made, want = undisturbed
  folder = files.folder(tmp_path, 'g')
  given = {'save_every': 7} if how == 'saved' else {}
  with monkeypatch.context() as patch:
    def kill(*args):
      raise KeyboardInterrupt
    if how == 'signal':
      calls = iter(range(1, STEPS))
      patch.setattr(interrupts, 'asked', lambda: signal.SIGTERM if (
          next(calls) == 14) else None)
    else:
      patch.setattr(generate.checkpoint, 'write_tree', kill)
    with pytest.raises((KeyboardInterrupt, interrupts.Interrupted)):
      trained(folder, made, train, curve, **given)
  begun, batch = [], mixing.batch
  monkeypatch.setattr(mixing, 'batch', lambda plan, i: (
      begun.append(i), batch(plan, i))[1])
  trained(folder, made, train, curve, **given)
  assert begun == ([12, 13] if how == 'kill' else [])
  assert whole(folder) == want


def test_several_steps_a_call_stop_at_the_same_look(tmp_path, train, curve,
                                                    undisturbed):
  made, want = undisturbed
  folder = files.folder(tmp_path, 'g')
  found = trained(folder, made, train, curve, steps_per_call=2, log_every=2)
  assert found['collapsed_at'] == 14
  arrays = files.load_npz(folder.final / 'variables.npz')
  assert {k: v.tobytes() for k, v in arrays.items()} == want[1]


# --------------------------------------------------- interpolation, adaptation
def _wave(noise):
  """A model whose images show their noise: the first pixels are z / 4."""
  def decode(variables, z, labels):
    # Of the whole batch too, as batch norm with the batch's statistics is.
    flat = jnp.zeros((len(labels), 784)).at[:, :6].set(z / 4)
    flat = flat.at[:, 6].set(labels / 10).at[:, 7].set(labels.mean() / 10)
    return flat.reshape(-1, 28, 28, 1) * variables['gain']
  def sample(variables, key, labels, given=None):
    return decode(variables, jax.random.normal(key, (len(labels), 6)), labels)
  return types.GenerativeModel(
      lambda key: {'gain': jnp.float32(1)},
      lambda state, batch, key: (state, {'loss': state['gain']}),
      lambda state: state, sample, lambda state: {'g': 1}, decode=decode,
      z_dim=6, noise=noise)


@pytest.mark.parametrize('noise', ['normal', 'uniform'])
def test_interpolation(tmp_path, train, noise):
  made, folder = _wave(noise), files.folder(tmp_path, 'g')
  trained(folder, made, train, steps=1)
  grid = images.decode(folder.final / 'interpolation.png')
  assert grid.shape == (10 * 30 + 2, 10 * 30 + 2, 1)
  cells = np.stack([grid[2 + 30 * row:30 + 30 * row, 2 + 30 * column:
                         30 + 30 * column] for row in range(10)
                    for column in range(10)]).reshape(10, 10, 784)
  z = (cells[..., :6] / 127.5 - 1) * 4
  assert np.ptp(z, 0).max() == 0  # The same in every row.
  np.testing.assert_allclose(cells[:, 0, 6] / 127.5 - 1, np.arange(10) / 10,
                             atol=1 / 127)
  assert (cells[..., 7] == cells[0, 0, 7]).all()  # All classes in one batch.
  assert cells[0, 0, 7] == pixels.to_uint8(np.float32(0.45))
  key = jax.random.fold_in(jax.random.split(jax.random.key(0), 3)[2], 2)
  first, last = (jax.random.normal(key, (2, 6)) if noise == 'normal' else
                 jax.random.uniform(key, (2, 6), minval=-1))
  labels = np.repeat(np.arange(10), 10)
  for column, end in ((0, first), (9, last)):
    want = pixels.to_uint8(made.decode(
        {'gain': 1}, jnp.tile(end, (100, 1)), labels))
    np.testing.assert_array_equal(cells[:, column], want.reshape(
        10, 10, 784)[:, 0])
  steps = np.linspace(0, 1, 10)[:, None]
  if noise == 'uniform':
    want = first + steps * (last - first)
    assert np.abs(z).max() <= 1.02
  else:  # Weights whose squares sum to 1 keep normal noise normal.
    want = np.cos(steps * np.pi / 2) * first + np.sin(
        steps * np.pi / 2) * last
  np.testing.assert_allclose(z[0], want, atol=4 / 127)


def test_no_latent_space_no_interpolation(tmp_path, garments, train):
  folder = files.folder(tmp_path, 'g')
  trained(folder, model(garments), train, steps=1)
  assert not (folder.final / 'interpolation.png').exists()


def test_a_model_adapts_once_to_the_whole_training_split(tmp_path, train):
  """Also when it is resumed: what it took is in the checkpoint."""
  made, calls = _wave('normal'), []
  def adapt(state, pixels, labels):
    calls.append(pixels.shape)
    assert pixels.dtype == jnp.uint8
    return {'gain': state['gain'] + pixels.astype(jnp.float32).mean() / 255
            + labels.sum()}
  def step(state, batch, key):
    return {'gain': state['gain'] * 1.01}, {'loss': state['gain']}
  made = made._replace(adapt=adapt, step=step)
  run = functools.partial(trained, made=made, train=train, steps=6)
  folders = [files.folder(tmp_path, name) for name in 'ab']
  run(folders[0])
  assert calls == [train.images.shape]
  gain = np.float32(1 + train.images.mean() / 255 + train.labels.sum())
  first = metrics_log.read(folders[0].final)[0]
  assert first['loss'] == pytest.approx(
      np.mean([gain * 1.01**i for i in range(3)]), rel=1e-6)
  calls_left = [5]
  def show(*args):
    calls_left[0] -= 1
    if not calls_left[0]:
      raise KeyboardInterrupt
    return batch(*args)
  batch = mixing.batch
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mixing, 'batch', show)
    with pytest.raises(KeyboardInterrupt):
      run(folders[1])
  run(folders[1])
  assert whole(folders[1]) == whole(folders[0])


# --------------------------------------------------------------------- phases
def _phased():
  """Two rules: +1 a step, then from step 5 on * 2, beginning at 100."""
  def sample(variables, key, labels, given=None):
    level = jnp.full((len(labels), 28, 28, 1), variables['x'] / 1e6)
    return level + jax.random.uniform(key, level.shape) / 100
  def first(state, batch, key):
    return {'x': state['x'] + 1}, {'first_loss': state['x']}
  def second(state, batch, key):
    return {'x': state['x'] * 2}, {'second_loss': state['x']}
  def begin(state, images, labels):
    return {'x': state['x'] + 100 * (labels.shape[0] == images.shape[0])}
  return types.GenerativeModel(
      lambda key: {'x': jnp.float32(0)}, first, lambda state: state, sample,
      lambda state: {'g': 1}, phases=(types.Phase(5, second, begin),))


@pytest.mark.parametrize('calls', [1, 5])
def test_each_phase_goes_by_its_own_rule(tmp_path, train, calls):
  folder = files.folder(tmp_path, 'g')
  trained(folder, _phased(), train, steps=8, log_every=10 if calls > 1 else 2,
          save_every=20, sample_every=20, steps_per_call=calls)
  found = files.load_npz(folder.final / 'variables.npz')
  assert found['x'] == (5 + 100) * 2**3
  records = metrics_log.read(folder.final)
  if calls == 1:  # A record has the logs of its own steps; means are of these.
    assert [(r['step'], r.get('first_loss'), r.get('second_loss'))
            for r in records] == [
                (2, 0.5, None), (4, 2.5, None), (6, 4.0, 105.0),
                (8, None, 315.0)]


@pytest.mark.parametrize('at', [4, 5, 6])
def test_a_kill_about_the_begin_of_a_phase_changes_no_bit(tmp_path, train, at):
  folders = [files.folder(tmp_path, name) for name in 'ab']
  trained(folders[0], _phased(), train, steps=8, save_every=1)
  batch = mixing.batch
  with pytest.MonkeyPatch.context() as patch:
    def dying(plan, i):
      if i == at:
        raise KeyboardInterrupt
      return batch(plan, i)
    patch.setattr(mixing, 'batch', dying)
    with pytest.raises(KeyboardInterrupt):
      trained(folders[1], _phased(), train, steps=8, save_every=1)
  trained(folders[1], _phased(), train, steps=8, save_every=1)
  assert whole(folders[1]) == whole(folders[0])


def test_weights_of_the_last_phase_alone_are_chosen(tmp_path, train, curve):
  """Though earlier ones were nearer to the validation images."""
  folder, seen = files.folder(tmp_path, 'g'), []
  def score(drawn):
    seen.append(drawn.mean())
    return float(drawn.mean()), {}
  found = trained(folder, _phased(), train, steps=8, curve=curve._replace(
      score=score, watch=None, every=2))
  assert len(seen) == 2 and found['chosen_step'] == 6  # After 6 and 8 steps.


def test_samples_stand_below_what_they_start_from(tmp_path, train):
  """Also in the grid; a class that is not made has no row."""
  def sample(variables, key, labels, given=None):
    return -given
  made = _wave('normal')._replace(sample=sample, decode=None,
                                  origins=((3, 5), (5, 3)))
  folder = files.folder(tmp_path, 'g')
  trained(folder, made, train, steps=1)
  grid = images.decode(folder.final / 'samples' / 'step_000001.png')
  assert grid.shape == (4 * 30 + 2, 10 * 30 + 2, 1)
  cells = np.stack([grid[2 + 30 * r:30 + 30 * r, 2 + 30 * c:30 + 30 * c]
                    for r in range(4) for c in range(10)]).reshape(4, 10, 28,
                                                                   28)
  for row, start in ((0, 5), (2, 3)):
    real = train.images[train.labels == start][..., 0]
    for cell, other in zip(cells[row], cells[row + 1], strict=True):
      assert (cell == real).all((1, 2)).any()
      np.testing.assert_array_equal(other, 255 - cell)


def test_a_feed_says_what_a_step_sees(tmp_path, train):
  """And is told labels, names and seed; it may refuse."""
  seen = []
  def feed(labels, names, batch_size, seed):
    np.testing.assert_array_equal(labels, train.labels)
    return lambda i: np.full((2, 3, batch_size), i, np.int32)
  def step(state, batch, key):
    seen.append((batch['image'].shape, batch['label'].shape))
    return {'gain': state['gain'] + batch['label'].mean()}, {
        'loss': state['gain']}
  made = _wave('normal')._replace(feed=feed, step=step)
  folder = files.folder(tmp_path, 'g')
  trained(folder, made, train, steps=3)
  assert seen == [((2, 3, 8, 28, 28, 1), (2, 3, 8))]
  want = 1 + train.labels[:3].sum()
  assert files.load_npz(folder.final / 'variables.npz')['gain'] == want


def test_a_critic_is_kept_of_the_step_that_is_chosen(tmp_path, train, curve):
  """And scores images in parts, whatever their number."""
  made = _phased()._replace(critic=types.Critic(
      lambda state: {'y': state['x'] * 10},
      lambda variables, images, labels: images.mean((1, 2, 3)) + labels
      + variables['y']), phases=())
  folder = files.folder(tmp_path, 'g')
  steps = iter([3.0, 1.0, 2.0, 5.0])
  trained(folder, made, train, steps=8, curve=curve._replace(
      score=lambda drawn: (next(steps), {}), watch=None, every=2))
  read = generate.read(folder, made, SPEC, 0)
  assert read.manifest['chosen_step'] == 4 and read.variables()['x'] == 4
  some = train.images[:7]
  got = read.score(some, train.labels[:7])
  want = (some / 127.5 - 1).mean((1, 2, 3)) + train.labels[:7] + 40
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert read.score(some[:0], train.labels[:0]).shape == (0,)
