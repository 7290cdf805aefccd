"""Almost no inner loop: MAML that adapts the last layer alone (Raghu et al., ICLR 2020, arXiv:1909.09157)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import optax
from flax.traverse_util import flatten_dict

from train.optim.freezing import Frozen, matches
from train.state import Task
from train.tasks.checked import checked
from train.tasks.few_shot.maml import Loss, adapting


@checked
def anil(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    head: str = "Dense_0",
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    test_steps: int | None = None,
    first_order: bool = False,
    per_step_losses: int = 0,
    loss: Loss = "cross_entropy",
    transductive: bool = True,
    inputs: str = "support_image",
    **options: Any,
) -> Task:
    """As `maml`, but the inner steps move the parameters of the `head` alone, in training and evaluation.

    Args:
      model: the network.
      tx: the optimizer of all parameters.
      head: a wildcard over parameters, such as "Dense_0" of `conv4`.
      inner_rate: α.
      inner_steps: in training.
      test_steps: in evaluation; None for `inner_steps`.
      first_order: see `maml`, as the following.
      per_step_losses: train steps over which queries are told after each inner step.
      loss: of support and query sets.
      transductive: whether batch norm takes the statistics of the queries told together.
      inputs: the field of the support set that the model takes.
      **options: see `gradient_task`.

    Raises:
      ValueError: `head` is none of the model's parameters, when training begins.
    """
    return adapting(
        model,
        tx,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        test_steps=test_steps,
        first_order=first_order,
        per_step_losses=per_step_losses,
        loss=loss,
        transductive=transductive,
        inputs=inputs,
        kept=lambda params: all_but(params, head),
        **options,
    )


def all_but(params: Any, head: str) -> Frozen:
    """Whether a parameter is none of the head's.

    Raises:
      ValueError: no parameter is.
    """
    paths = list(flatten_dict(params, sep="/"))
    if not any(matches(path, head) for path in paths):
        raise ValueError(f"head={head!r} names none of the parameters: {', '.join(paths)}; set task_options.head")
    return lambda path: not matches(path, head)
