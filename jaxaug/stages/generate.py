"""Stage 3: a generative model learns from the real training split only."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug import (
  artefacts,
  checkpoint,
  images,
  logs,
  loop,
  mesh,
  mixing,
  registry,
  types,
)

GRID_COLUMNS = 10


def build(spec: types.ImageSpec, where: str, model: str, arguments: dict):
  """Returns the model, its arguments checked against its signature."""
  return registry.build('generators', model, arguments, where, spec)


def _sampler(model, spec, key):
  """Returns grid(variables): fixed noise, a class to a row."""
  labels = jnp.repeat(jnp.arange(spec.num_classes), GRID_COLUMNS)
  sample = jax.jit(model.sample)
  return lambda variables: images.grid(
      images.to_uint8(sample(variables, key, labels)), GRID_COLUMNS)


def run(folder: artefacts.Folder, *, name: str, spec: types.ImageSpec,
        train: types.Split, train_digest: str,
        model: types.GenerativeModel, steps: int,
        batch_size: int, seed: int, devices, log_every: int, save_every: int,
        sample_every: int, stride: int = 1) -> dict:
  """Trains `model` and writes its averaged weights; returns the manifest.

  One call takes up to `stride` steps.
  """
  artefacts.begin(folder.partial, resume=True)
  key = jax.random.key(seed)
  key_init, key_step, key_grid = jax.random.split(key, 3)
  state = mesh.replicate(devices, jax.jit(model.init)(key_init))
  parameters = model.parameters(state)
  bank = mesh.replicate(devices, (train.images, train.labels))
  plan = mixing.plan(mixing.everything(len(train.labels)), pool_start=0,
                     batch_size=batch_size, seed=(seed,))

  stride = loop.stride(stride, log_every, save_every, sample_every)
  def update(state, count, bank, index, key):
    def one(state, index):
      batch = {'image': bank[0][index], 'label': bank[1][index]}
      return model.step(state, batch, key)
    if stride == 1:
      return one(state, index)
    return loop.repeat(one)(state, count, index)
  compiled = jax.jit(update, donate_argnums=0)

  def batches(i):
    count = model.d_steps
    index = np.stack([mixing.batch(plan, k) for k in
                      range(i * count, (i + stride) * count)])
    lead = (stride, count) if stride > 1 else (count,)
    index = index.reshape(*lead, -1)
    return np.int32(steps - i), mesh.shard(devices, index, axis=len(lead))

  grid = _sampler(model, spec, key_grid)
  def show(step, state, memory, writer):
    picture = grid(model.variables(state))
    with artefacts.writing(folder.partial):
      images.save_png(folder.partial / 'samples' / f'step_{step:06d}.png',
                      picture)
    writer.image(step, f'samples/{name}', picture)
    return memory

  with artefacts.writing(folder.partial):
    (folder.partial / 'parameters.txt').write_text(
        logs.overview(jax.eval_shape(model.variables, state))[0])
  total = sum(parameters.values())
  logs.say(f'generate {name}: {total:,} parameters, {steps} steps of '
           f'{model.d_steps} x {batch_size} images')
  state, _, seconds = loop.run(
      lambda state, batch: compiled(state, batch[0], bank, batch[1], key_step),
      batches, state, {}, steps=steps, folder=folder.partial,
      title=f'generate {name}', log_every=log_every, save_every=save_every,
      hooks=(loop.Hook(sample_every, show),), stride=stride)
  checkpoint.write_tree(folder.partial / 'variables.npz',
                      jax.device_get(model.variables(state)))
  manifest = {'parameters': parameters, 'steps': steps,
              'train_digest': train_digest,
              'seconds': seconds}
  artefacts.finish(folder.partial, folder.final, manifest)
  # Last: a kill amid this must not leave half a checkpoint to resume from.
  artefacts.remove(folder.final / 'checkpoints')
  return manifest


def read(folder: artefacts.Folder, model: types.GenerativeModel):
  """Returns the variables that `run` wrote, for `model.sample`."""
  like = jax.eval_shape(lambda: model.variables(model.init(jax.random.key(0))))
  return checkpoint.read_tree(folder.final / 'variables.npz', like)
