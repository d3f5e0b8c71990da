"""What holds the two players back: penalties, and who may move.

Sources: R1, Mescheder et al. 2018; gradient penalty, Gulrajani et al. 2017,
algorithm 1; LeCam, Tseng et al. 2021, one-sided as in its code; consistency,
Zhang et al. 2020 (CR) and Zhao et al. 2021 (bCR); top-k, Sinha et al. 2020;
`margin`, the LFW network of github.com/skaae/torch-gan.

A `score` is a function of images [B, H, W, C] -> raw scores [B]. The penalties
on its gradient take each score as one of its own image, which batch norm in D
breaks. All results are float32 [], and none is weighted.
"""
import typing

import jax
import jax.numpy as jnp


def _squared_slopes(score, images, axes=(1, 2, 3)):
  """The squared Euclidean norm of d(score)/d(image) over some axes: float32
  [B], or [B, ...] with the axes that are left."""
  def total(images):
    return score(images).astype(jnp.float32).sum()
  slopes = jax.grad(total)(images.astype(jnp.float32))
  return jnp.square(slopes).sum(axes)


def r1(score, images) -> jax.Array:
  """E[|dD/dx|^2] over real images; the paper's penalty is gamma / 2 times it.

  Args:
    score: see above.
    images: real ones, [B, H, W, C]; un-augmented, `score` may augment them.
  """
  return _squared_slopes(score, images).mean()


def gradient_penalty(key, score, real, fake, axes=(1, 2, 3),
                     draw=None) -> jax.Array:
  """E[(|dD/dx| - 1)^2] between real and fake images; the paper's weight is 10.

  Args:
    key: draws one place on the line from each real image to its fake one.
    score: see above.
    real, fake: [B, H, W, C].
    axes: those of the norm; the paper's are those of an image. With fewer, as
      in some published code, there is a norm for each of the others.
    draw: (key, shape) -> the real image's share at that place; None for any
      from 0 to 1 alike.
  """
  share = (draw or jax.random.uniform)(key, (real.shape[0], 1, 1, 1))
  squares = _squared_slopes(score, share * real + (1 - share) * fake, axes)
  # A flat D has a norm of 0 and no gradient, and not an infinite one.
  flat = squares == 0
  norms = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squares)))
  return jnp.square(norms - 1).mean()


class LeCam(typing.NamedTuple):
  """Moving averages of D's mean scores, float32 []."""
  real: jax.Array
  fake: jax.Array


def lecam(real_scores, fake_scores, state: LeCam) -> jax.Array:
  """E[max(0, D(x) - fake)^2] + E[max(0, real - D(G(z)))^2].

  `real` and `fake` are the averages of `state`, constants to the gradient; the
  paper's code gives it a weight of 0.3.
  """
  state = jax.lax.stop_gradient(state)
  above = jax.nn.relu(real_scores.astype(jnp.float32) - state.fake)
  below = jax.nn.relu(state.real - fake_scores.astype(jnp.float32))
  return jnp.square(above).mean() + jnp.square(below).mean()


def lecam_update(state: LeCam, real_mean, fake_mean, decay) -> LeCam:
  """Moves the averages by 1 - decay; a decay of 0 copies the means."""
  return LeCam(decay * state.real + (1 - decay) * real_mean,
               decay * state.fake + (1 - decay) * fake_mean)


def consistency(scores, scores_of_augmented) -> jax.Array:
  """E[(D(T(x)) - D(x))^2]; CR on real images, bCR on fake ones as well.

  The papers' weight is 10. Gradients go through both scores.
  """
  gaps = (scores - scores_of_augmented).astype(jnp.float32)
  return jnp.square(gaps).mean()


def top_k(scores, k) -> jax.Array:
  """Marks the k highest scores: weights for a generator's loss.

  Args:
    scores: of fakes, [B].
    k: how many, from 1 to B; may be traced, so that a k that falls in training
      needs one compilation.

  Returns:
    float32 [B], 1 for exactly k of them and 0 else; of equals, the first.
  """
  rank = jnp.argsort(jnp.argsort(scores, descending=True))
  return (rank < k).astype(jnp.float32)


def top_k_count(step, batch: int, gamma: float, every: int, nu: float):
  """How many fakes G learns from: batch * max(gamma^(step // every), nu).

  Args:
    step: updates of G so far; may be traced.
    batch: number of fakes, where it starts.
    gamma: its factor each time; 0.99 in the paper.
    every: updates between two times; the paper's is an epoch.
    nu: the smallest share of the batch.

  Returns:
    int32 [], rounded down, and at least 1.
  """
  times = jnp.float32(step // every)
  share = jnp.maximum(jnp.power(gamma, times), nu)
  # float32 may put a whole number just below itself.
  return jnp.maximum(1, jnp.floor(batch * share + 1e-3)).astype(jnp.int32)


def margin(err_real, err_fake, low: float = 0.3, high: float = 0.7):
  """Who moves while D's two errors keep between `low` and `high`.

  D rests where it is too good on either side, G where D is too bad on either;
  where both would rest, both move.

  Args:
    err_real, err_fake: D's mean cross-entropy on real and on fake images.

  Returns:
    (train_d, train_g), bool [].
  """
  d_rests = jnp.minimum(err_real, err_fake) < low
  g_rests = jnp.maximum(err_real, err_fake) > high
  return ~d_rests | g_rests, ~g_rests | d_rests


def behind(d_loss, g_loss):
  """Who moves where the player with the lower loss rests; both, if equal.

  Returns:
    (train_d, train_g), bool [].
  """
  return ~jnp.less(d_loss, g_loss), ~jnp.less(g_loss, d_loss)
