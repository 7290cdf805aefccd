"""Language modelling: each token from those before it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import losses
from train.metrics import Bits, Metrics, Perplexity
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task, with_metrics


@checked
def language_modeling(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    inputs: str = "tokens",
    **options: Any,
) -> Task:
    """Trains `model` to give logits `[batch, time, vocab_size]` of the token that follows each.

    Batches hold integers `[batch, time + 1]` under `inputs`, of which all but the last are the model's input and all
    but the first its targets; or, where there is a field `targets` `[batch, time]`, the model's input of that shape.
    `weights` `[batch, time]` weigh the targets, 0 for padding.

    Metrics are means over targets, of all batches together: `loss`, the cross-entropy in nats; `accuracy`; and two that
    tell the cross-entropy, without smoothing and sample weights, in other words: `perplexity`, its exponential, and
    `bits_per_character`, its 1 / ln 2, where tokens are characters.

    Args:
      model: a language model.
      tx: the optimizer.
      label_smoothing: see `losses.cross_entropy`.
      inputs: the field of the batch with the tokens.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        tokens = batch[inputs]
        if "targets" not in batch:
            batch = {**batch, inputs: tokens[:, :-1], "targets": tokens[:, 1:]}
        weights = batch.get("weights", jnp.ones(batch["targets"].shape))
        return {**batch, "mask": weights if "mask" not in batch else weights * batch["mask"][:, None]}

    def per_example(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        targets = batch["targets"]
        if not isinstance(logits, jax.Array) or logits.shape[:-1] != targets.shape:
            found = jax.tree.map(lambda leaf: list(leaf.shape), logits)
            raise ValueError(f"a language model gives logits [*{list(targets.shape)}, vocab_size], not {found}")
        nll = losses.cross_entropy(logits, targets)
        smoothed = losses.cross_entropy(logits, targets, label_smoothing=label_smoothing) if label_smoothing else nll
        return {"loss": smoothed, "accuracy": logits.argmax(axis=-1) == targets, "nll": nll}

    task = gradient_task(model, tx, per_example, inputs=inputs, prepare=prepare, **options)
    return with_metrics(task, _in_other_words)


def _in_other_words(metrics: Metrics) -> Metrics:
    nll = metrics["nll"]
    rest = {name: mean for name, mean in metrics.items() if name != "nll"}
    return {**rest, "perplexity": Perplexity(*nll), "bits_per_character": Bits(*nll)}
