"""What the few-shot learners share: the parts of an episode, one task's forward pass, and how they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from train import losses
from train.metrics import HalfWidth, Metrics, weigh
from train.state import Batch
from zoo.layers import BatchNorm, apart

SUPPORT, QUERY = "support_", "query_"


class Episode(NamedTuple):
    """Episodes as arrays `[episodes, examples, …]`, or one of them `[examples, …]`."""

    support: Any
    support_told: Any
    query: Any
    query_told: Any


def episodes_of(batch: Batch, inputs: str, told: str) -> Episode:
    """The parts of a batch of episodes.

    Args:
      batch: by field.
      inputs: the field of the support set that the model takes, such as "support_image".
      told: what is learned, "label" or "target".
    """
    queries = QUERY + inputs.removeprefix(SUPPORT)
    return Episode(batch[inputs], batch[f"{SUPPORT}{told}"], batch[queries], batch[f"{QUERY}{told}"])


def require_support(inputs: str) -> None:
    """Refuses a field that is none of a support set.

    Raises:
      ValueError: says what is expected.
    """
    if not inputs.startswith(SUPPORT):
        raise ValueError(
            f"inputs of a few-shot task names the field of the support set, such as support_image, not {inputs!r}; the "
            "data are episodes, as those of data.load('omniglot')"
        )


def loss_and_metrics(kind: str, outputs: jax.Array, told: jax.Array) -> dict[str, jax.Array]:
    """Means over the examples of one task: of logits and labels, or of predictions and targets."""
    if kind == "mse":
        return {"loss": losses.mean_squared_error(outputs, told).mean()}
    right = outputs.argmax(axis=-1) == told
    return {
        "loss": losses.cross_entropy(outputs, told).mean(),
        "accuracy": (right & ~jnp.isnan(outputs).any(axis=-1)).astype(jnp.float32).mean(),
    }


def told_by(loss: str) -> str:
    """The field that a loss compares with."""
    return "target" if loss == "mse" else "label"


def measure(values: Mapping[str, jax.Array], batch: Batch) -> Metrics:
    """Means over tasks, each `NAME` with `NAME_interval`: half the width of its 95 % confidence interval."""
    mask = batch.get("mask")
    means = weigh(values, mask)
    return {**means, **{f"{name}_interval": HalfWidth.of(value, mask) for name, value in values.items()}}


def statistics_of(transductive: bool) -> str:
    """Whose statistics batch norm takes for a query, in words for a report."""
    return "transductive: of all queries together" if transductive else "not transductive: each query by itself"


class Learner(NamedTuple):
    """A model in one task.

    Attributes:
      model: the module.
      transductive: whether batch norm takes the statistics of the queries that are told together. Else it takes those
        of the support set.
    """

    model: nn.Module
    transductive: bool

    def outputs(self, params: Any, state: Any, x: jax.Array, *, train: bool = False, rngs: Any = None) -> jax.Array:
        """Of one set, normalised by its own statistics; dropout is active where `train` is true."""
        return self._run(params, state, x, train, rngs)[0]

    def of_queries(
        self, params: Any, state: Any, support: jax.Array, query: jax.Array, *, train: bool = False, rngs: Any = None
    ) -> jax.Array:
        """The outputs for a query set."""
        if self.transductive or not state.get("batch_stats"):
            return self.outputs(params, state, query, train=train, rngs=rngs)
        zeros = {**state, "batch_stats": jax.tree.map(jnp.zeros_like, state["batch_stats"])}
        _, seen, momenta = self._run(params, zeros, support, train, rngs)
        statistics: dict[Any, Any] = flatten_dict(dict(seen["batch_stats"]))
        # Of zeros a batch norm keeps momentum · 0 + (1 − momentum) · the statistic of the batch.
        statistics = {path: value / (1 - momenta[path[:-1]]) for path, value in statistics.items()}
        given = {**state, "batch_stats": unflatten_dict(statistics)}
        return self._run(params, given, query, train, rngs, own=False)[0]

    def _run(
        self, params: Any, state: Any, x: jax.Array, train: bool, rngs: Any, *, own: bool = True
    ) -> tuple[jax.Array, Any, dict[tuple[str, ...], float]]:
        momenta: dict[tuple[str, ...], float] = {}

        def intercept(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
                momenta[context.module.path] = context.module.momentum
                kwargs = {**kwargs, "train": own}
            return next_call(*args, **kwargs)

        with apart(), nn.intercept_methods(intercept):
            y, seen = self.model.apply({"params": params, **state}, x, train=train, rngs=rngs, mutable=list(state))
        return y, seen, momenta
