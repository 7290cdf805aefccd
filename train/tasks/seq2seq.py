"""Sequence to sequence: a target, token by token, from a source."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from data.text.tokens import PAD, START
from train import losses
from train.metrics import Mean, Metrics, Perplexity
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task, with_metrics


@checked
def seq2seq(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    inputs: str = "inputs",
    **options: Any,
) -> Task:
    """Trains `model` to give logits `[batch, time, vocab_size]` of a target's tokens, from a source and those before.

    Batches hold the sources under `inputs` and `targets`, integer `[batch, time]`, that close with an end token; both
    are filled up with `data.text.tokens.PAD`. The model takes the source, and the targets moved by one behind a start
    token.

    Metrics are means over the tokens of the targets, of all batches together: `loss`, in nats, and `accuracy`;
    `perplexity`, the exponential of the cross-entropy without smoothing; and
    `sequence_accuracy`, the share of targets of which every token is right, each told from the right ones before it.

    Args:
      model: such as `zoo.transformer.Transformer`.
      tx: the optimizer.
      label_smoothing: see `losses.cross_entropy` (Vaswani et al. 2017 take 0.1).
      inputs: the field of the batch that holds the sources.
      **options: `ema_decay`, `loss_scaling` …, see `gradient_task`.
    """

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        targets = batch["targets"]
        before = jnp.concatenate([jnp.full_like(targets[:, :1], START), targets[:, :-1]], axis=1)
        kept = jnp.ones(len(targets), bool) if "mask" not in batch else batch["mask"]
        return {**batch, "before": before, "mask": (targets != PAD) * kept[:, None]}

    def per_example(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        targets = batch["targets"]
        if not isinstance(logits, jax.Array) or logits.shape[:-1] != targets.shape:
            found = jax.tree.map(lambda leaf: list(leaf.shape), logits)
            raise ValueError(f"a model of sequences gives logits [*{list(targets.shape)}, vocab_size], not {found}")
        right = logits.argmax(axis=-1) == targets
        first = jnp.arange(targets.shape[1])[None] == 0
        nll = losses.cross_entropy(logits, targets)
        return {
            "loss": losses.cross_entropy(logits, targets, label_smoothing=label_smoothing) if label_smoothing else nll,
            "perplexity": nll,
            "accuracy": right,
            "sequence_accuracy": first & (right | (targets == PAD)).all(axis=1, keepdims=True),
            "sequences": jnp.broadcast_to(first, targets.shape),
        }

    task = gradient_task(model, tx, per_example, inputs=(inputs, "before"), prepare=prepare, **options)
    return with_metrics(task, _by_sequence)


def _by_sequence(metrics: Metrics) -> Metrics:
    """Both were counted at the first token of each sequence, so that their ratio is that of sequences."""
    sequences = metrics["sequences"].total
    rest = {name: mean for name, mean in metrics.items() if name != "sequences"}
    return {
        **rest,
        "perplexity": Perplexity(*metrics["perplexity"]),
        "sequence_accuracy": Mean(metrics["sequence_accuracy"].total, sequences),
    }
