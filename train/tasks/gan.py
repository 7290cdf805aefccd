"""Generative adversarial networks: two players, one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train import losses
from train.metrics import Metrics, weigh
from train.optim.weight_average import average, is_schedule_free, start_average
from train.state import Batch, State, Task
from train.tasks.checked import checked
from train.tasks.step import create_state, evaluation_key, step_key, sum_over_devices
from train.tasks.unit_images import of_unit_images
from zoo.generative.gan import GAN
from zoo.observe import mark_gradients


class PlayerLosses(NamedTuple):
    """What each player minimises, for each pair of a real and a generated image.

    Attributes:
      discriminator: (logits of the real and of the generated image `[batch, 2]`, labels of the same shape) → `[batch]`.
      generator: logits of the generated image `[batch]` → `[batch]`.
    """

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]


LOSSES = {
    # Goodfellow et al. 2014, section 3: the generator maximises log D(G(z)), whose gradient does not fade early on.
    "non_saturating": PlayerLosses(
        lambda logits, labels: losses.binary_cross_entropy(logits, labels).mean(axis=-1),
        lambda generated: jax.nn.softplus(-generated),
    ),
    # Lim & Ye 2017
    "hinge": PlayerLosses(
        lambda logits, labels: jax.nn.relu(1 - logits[:, 0]) + jax.nn.relu(1 + logits[:, 1]),
        lambda generated: -generated,
    ),
    # Gulrajani et al. 2017, eq. 3, to which the step adds the gradient penalty
    "wgan_gp": PlayerLosses(
        lambda logits, labels: logits[:, 1] - logits[:, 0],
        lambda generated: -generated,
    ),
}


@checked
def gan(
    model: GAN,
    tx: optax.GradientTransformation,
    *,
    discriminator_tx: optax.GradientTransformation | None = None,
    loss: Literal["non_saturating", "hinge", "wgan_gp"] = "non_saturating",
    label_noise: float = 0.05,
    gradient_penalty: float = 10.0,
    ema_decay: float | None = None,
    inputs: str = "image",
) -> Task:
    """Trains a generator and a discriminator against each other (eq. 72), each once in a step.

    A step draws as many latents as there are real images and generates once. The discriminator moves first, on the real
    images and the generated ones, which it takes as given. Then the generator moves, by what the discriminator, as it
    is now, makes of the same images. (The guide generates anew for the second half, for one more pass through the
    generator.) `generator` and `discriminator` are the parts of the state's `params` and `opt_state`.

    The metrics `discriminator_loss`, `generator_loss`, `real_logit` and `generated_logit` describe the game; `loss`,
    the sum of the first two, shows that they are numbers, and measures no progress.

    Args:
      model: both players.
      tx: the optimizer of the generator, and of the discriminator where that has none of its own.
      discriminator_tx: the optimizer of the discriminator.
      loss: a name in `LOSSES`.
      label_noise: the labels 1 and 0 that the discriminator learns are lowered by up to so much, uniformly at random;
        for the non-saturating loss alone.
      gradient_penalty: weight of (‖∇D‖ − 1)² between real and generated images, for "wgan_gp".
      ema_decay: keeps an exponential moving average of the variables, which evaluation and sampling then use: the
        players circle around what neither leaves, and their average lies nearer to it (Yazıcı et al. 2019).
      inputs: the field of the batch that holds the real images, in [0, 1].
    """
    for name, value in (("label_noise", label_noise), ("gradient_penalty", gradient_penalty)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, not {value}")
    if not isinstance(model, GAN):
        raise ValueError(f"the task gan trains a zoo.gan.GAN, not {type(model).__name__}")
    of_discriminator, of_generator = LOSSES[loss]
    optimizers = {"generator": tx, "discriminator": discriminator_tx or tx}

    def init(key: jax.Array, batch: Batch) -> State:
        if "sample_weight" in batch:
            raise ValueError("the task gan weighs no examples; leave the field sample_weight out of the data")
        state = create_state(
            key,
            lambda key: model.init(key, jnp.zeros((1, model.latent_size))),
            lambda params: {player: optimizer.init(params[player]) for player, optimizer in optimizers.items()},
        )
        if is_schedule_free(state.opt_state):
            raise ValueError("the task gan takes no schedule-free optimizer; ema_decay keeps an average")
        return start_average(state, ema_decay)

    def draw_latents(key: jax.Array, batch: Batch) -> jax.Array:
        return jax.random.normal(key, (len(batch[inputs]), model.latent_size))

    def generate(params: Any, model_state: Any, z: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": {"generator": params}, **model_state}
        return model.apply(variables, z, train=True, method="generate", mutable=list(model_state))

    def judge(params: Any, images: jax.Array, dropout_key: jax.Array) -> jax.Array:
        variables = {"params": {"discriminator": params}}
        logits: Any = model.apply(variables, images, train=True, method="discriminate", rngs={"dropout": dropout_key})
        return logits[:, 0].astype(jnp.float32)

    def judge_both(params: Any, real: jax.Array, generated: jax.Array, dropout_key: jax.Array) -> jax.Array:
        # They alternate, so that batches which are split over devices stay where they are.
        images = jnp.stack([real, generated], axis=1).reshape(-1, *real.shape[1:])
        return judge(params, images, dropout_key).reshape(-1, 2)

    def penalty(params: Any, real: jax.Array, generated: jax.Array, key: jax.Array) -> jax.Array:
        mix_key, dropout_key = jax.random.split(key)
        share = jax.random.uniform(mix_key, (len(real), 1, 1, 1))
        between = share * real + (1 - share) * generated
        slope = jax.grad(lambda images: judge(params, images, dropout_key).sum())(between)
        norm = jnp.sqrt(jnp.square(slope).sum(axis=(1, 2, 3)) + 1e-12)  # the root has no slope at zero
        return gradient_penalty * jnp.square(norm - 1)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        latent_key, label_key, penalty_key, *dropout_keys = jax.random.split(step_key(state), 5)
        real, mask = 2 * batch[inputs] - 1, batch.get("mask")

        def mean(values: jax.Array) -> jax.Array:
            weighed = weigh({"": values}, mask)[""]
            return weighed.total / sum_over_devices(weighed.weight)

        def discriminator_objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            logits = judge_both(params, real, generated, dropout_keys[0])
            labels = jnp.array([[1.0, 0.0]]) - label_noise * jax.random.uniform(label_key, logits.shape)
            values = of_discriminator(logits, labels)
            if loss == "wgan_gp":
                values += penalty(params, real, generated, penalty_key)
            return mean(values), (values, logits)

        def generator_objective(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            values = of_generator(judge(discriminator, images, dropout_keys[1]))
            return mean(values), values

        def moved(player: str, gradient: Any) -> tuple[Any, Any]:
            gradient, params = mark_gradients(sum_over_devices(gradient), player), state.params[player]
            updates, opt_state = optimizers[player].update(gradient, state.opt_state[player], params)
            return optax.apply_updates(params, updates), opt_state

        z = draw_latents(latent_key, batch)
        generated, pull_back, model_state = jax.vjp(
            lambda params: generate(params, state.model_state, z), state.params["generator"], has_aux=True
        )
        slope, (lost, logits) = jax.grad(discriminator_objective, has_aux=True)(state.params["discriminator"])
        discriminator, discriminator_state = moved("discriminator", slope)
        slope, lost_by_generator = jax.grad(generator_objective, has_aux=True)(generated)
        generator, generator_state = moved("generator", *pull_back(slope))
        params = {"generator": generator, "discriminator": discriminator}
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state={"generator": generator_state, "discriminator": discriminator_state},
            ema=average(state.ema, {"params": params, **model_state}, ema_decay, generator_state),
        )
        return state, sum_over_devices(weigh(_metrics(lost, lost_by_generator, logits), mask))

    def eval_step(state: State, batch: Batch) -> Metrics:
        """The same images in inference: without dropout, label noise and penalty."""
        z = draw_latents(evaluation_key(state), batch)
        generated = model.apply(state.variables, z, method="generate")
        both: Any = [model.apply(state.variables, x, method="discriminate") for x in (2 * batch[inputs] - 1, generated)]
        logits = jnp.concatenate(both, axis=1).astype(jnp.float32)
        labels = jnp.broadcast_to(jnp.array([[1.0, 0.0]]), logits.shape)
        values = _metrics(of_discriminator(logits, labels), of_generator(logits[:, 1]), logits)
        return sum_over_devices(weigh(values, batch.get("mask")))

    return of_unit_images(Task(init, train_step, eval_step), inputs)


def _metrics(of_discriminator: jax.Array, of_generator: jax.Array, logits: jax.Array) -> dict[str, jax.Array]:
    return {
        "loss": of_discriminator + of_generator,
        "discriminator_loss": of_discriminator,
        "generator_loss": of_generator,
        "real_logit": logits[:, 0],
        "generated_logit": logits[:, 1],
    }
