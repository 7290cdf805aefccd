"""Classification of whole graphs."""

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
def graph_classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    class_weight: ClassWeight | str | None = None,
    inputs: Sequence[str] = ("nodes", "senders", "receivers", "node_mask"),
    **options: Any,
) -> Task:
    """Trains `model`, such as `zoo.graph_classifier.GraphClassifier`, to tell the class of each graph of a batch.

    Graphs are padded to one size: `nodes` `[batch, nodes, features]`, `senders` and `receivers` `[batch, edges]`, where
    the number of nodes stands for no edge, `node_mask` `[batch, nodes]` and `label` `[batch]`. They are split over the
    devices as images are. Loss, metrics and options are those of `classification`.

    Args:
      model: gives logits `[batch, classes]`.
      tx: the optimizer.
      label_smoothing: as for `classification`.
      class_weight: as for `classification`.
      inputs: the fields that the model takes, in their order.
      **options: as for `classification`.
    """
    return classification(
        model, tx, label_smoothing=label_smoothing, class_weight=class_weight, inputs=tuple(inputs), **options
    )
