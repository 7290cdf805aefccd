"""Classification of the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import optax

from train.class_weights import ClassWeight
from train.state import Task
from train.tasks.checked import checked
from train.tasks.classification import classification


@checked
def node_classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    class_weight: ClassWeight | str | None = None,
    inputs: Sequence[str] = ("nodes", "senders", "receivers", "node"),
    **options: Any,
) -> Task:
    """Trains `model` to tell the class of some nodes of a graph that it sees whole (Kipf & Welling 2017, section 3).

    Batches hold the graph, `nodes` `[nodes, features]`, `senders` and `receivers` `[edges]`, and of each example
    `node`, its number, and `label`, `[batch]`. Under every plan each device has the whole graph and some of the
    examples. Of neighbourhoods, which are graphs by themselves, all have the axis of the batch in front. Loss, metrics
    and options are those of `classification`.

    Args:
      model: a network on nodes, see `zoo.graphs`; called with the inputs in their order.
      tx: the optimizer.
      label_smoothing: as for `classification`.
      class_weight: as for `classification`.
      inputs: with "node_mask" behind them where batches have padding.
      **options: as for `classification`.
    """
    return classification(
        model, tx, label_smoothing=label_smoothing, class_weight=class_weight, inputs=tuple(inputs), **options
    )
