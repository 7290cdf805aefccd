"""What a trained run says of the nodes of its graph."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import data
from train.inference.loading import Run, classes_of
from train.tasks import task_option
from train.tasks.classification import class_probabilities


def class_of_nodes(run: Run, nodes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of nodes, and the probabilities of their classes `[nodes, classes]`.

    Args:
      run: of the task node_classification, on a graph that a batch holds whole.
      nodes: their numbers.

    Raises:
      ValueError: a node is no number of one that there is; or the run is on neighbourhoods.
    """
    source = next(iter(run.dataset.splits.values()))
    if not isinstance(source, data.graphs.graph.GraphSource):
        raise ValueError(
            "this run is on neighbourhoods that are drawn (data_options.fanouts); `zoo evaluate RUN --out FOLDER` "
            "writes what it says of each node of a split"
        )
    classes_of(run)
    count = len(source.arrays["nodes"] if "nodes" in source.arrays else source.arrays["columns"])
    numbers = []
    for each in nodes:
        if not each.isdecimal() or int(each) >= count:
            raise ValueError(f"{each!r} is no node of {run.recipe.data!r}: they are numbered 0 … {count - 1}")
        numbers.append(int(each))
    raw = source[np.zeros(len(numbers), np.int64)]
    batch = run.dataset.preprocess({**raw, "node": np.array(numbers, np.int32)})
    inputs = tuple(batch[name] for name in task_option(run.recipe, "inputs"))
    logits = jax.jit(lambda variables, given: jnp.asarray(run.model.apply(variables, *given)))(run.variables, inputs)
    return [f"node {number}" for number in numbers], np.asarray(class_probabilities(logits))
