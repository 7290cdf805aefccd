"""What a trained run says of the nodes of its graph, of links between them, and of whole graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import data
from data.graphs.graph import GraphSource, both_ways, checked_edges, checked_features
from data.graphs.sampling import TreeSource
from train.inference.loading import Run, classes_of
from train.tasks import task_option
from train.tasks.classification import class_probabilities

LINKED = ("not linked", "linked")
"""The classes of a pair of nodes."""

Told = tuple[list[str], np.ndarray, tuple[str, ...]]
"""Names of examples, the probabilities of their classes `[example, class]`, and the names of the classes."""


def class_of_nodes(run: Run, nodes: Sequence[str]) -> Told:
    """The classes of nodes of the run's graph, told by the whole graph, or by neighbourhoods that are drawn.

    Raises:
      ValueError: a node is no number of one that there is.
    """
    source = _graph_of(run)
    numbers = [_node(run, source, each) for each in nodes]
    if isinstance(source, TreeSource):
        raw = source.of(np.array(numbers))[np.arange(len(numbers))]
    else:
        raw = {**source[np.zeros(len(numbers), np.int64)], "node": np.array(numbers, np.int32)}
    logits = _outputs(run, raw, lambda logits, _: logits)
    return [f"node {number}" for number in numbers], np.asarray(class_probabilities(logits)), classes_of(run)


def probability_of_links(run: Run, pairs: Sequence[str]) -> Told:
    """How probable an edge between two nodes of the run's graph is; a pair is such as "3-17".

    Raises:
      ValueError: something is no pair of nodes that there are.
    """
    source = _graph_of(run)
    numbers = []
    for each in pairs:
        ends = each.split("-")
        if len(ends) != 2:
            raise ValueError(f"{each!r} is no pair of nodes: give two numbers with a hyphen between, such as 3-17")
        numbers.append([_node(run, source, end) for end in ends])
    chosen = np.array(numbers, np.int32)
    raw = {**source[np.zeros(len(chosen), np.int64)], "pair": chosen}

    def scores(embeddings: jax.Array, batch: Any) -> jax.Array:
        ends = embeddings.astype(jnp.float32)[batch["pair"]]
        return (ends[:, 0] * ends[:, 1]).sum(axis=-1)

    linked = np.asarray(jax.nn.sigmoid(_outputs(run, raw, scores)))
    return [f"{a}-{b}" for a, b in numbers], np.stack([1 - linked, linked], axis=1), LINKED


def class_of_graphs(run: Run, paths: Sequence[str]) -> Told:
    """The classes of graphs, each a folder or a file as `data.load("graph:…")` takes it; edges lead both ways.

    Raises:
      FileNotFoundError: there is no such folder or file.
      ValueError: it holds no graph, or its nodes have another number of features than the run's.
    """
    width = run.dataset.spec.fields["nodes"].shape[-1]
    graphs = []
    for path in paths:
        raw = data.graphs.read_graph(path)
        features = checked_features(raw.features, path)
        if features.shape[1] != width:
            raise ValueError(f"{path}: nodes have {features.shape[1]} features, and those of this run have {width}")
        graphs.append((features, both_ways(checked_edges(raw.edges, len(features), path))))
    most = max(len(features) for features, _ in graphs)
    longest = max(1, *(len(edges) for _, edges in graphs))
    batch = {
        "nodes": np.zeros((len(graphs), most, width), np.float32),
        "senders": np.full((len(graphs), longest), most, np.int32),
        "receivers": np.full((len(graphs), longest), most, np.int32),
        "node_mask": np.zeros((len(graphs), most), bool),
    }
    for row, (features, edges) in enumerate(graphs):
        batch["nodes"][row, : len(features)] = features
        batch["senders"][row, : len(edges)] = edges[:, 0]
        batch["receivers"][row, : len(edges)] = edges[:, 1]
        batch["node_mask"][row, : len(features)] = True
    logits = _outputs(run, batch, lambda logits, _: logits)
    return list(paths), np.asarray(class_probabilities(logits)), classes_of(run)


ON_GRAPHS: dict[str, Callable[[Run, Sequence[str]], Told]] = {
    "node_classification": class_of_nodes,
    "link_prediction": probability_of_links,
    "graph_classification": class_of_graphs,
}
"""By task."""


def _graph_of(run: Run) -> GraphSource | TreeSource:
    source = next(iter(run.dataset.splits.values()))
    assert isinstance(source, GraphSource | TreeSource)
    return source


def _node(run: Run, source: GraphSource | TreeSource, text: str) -> int:
    if not text.isdecimal() or int(text) >= source.num_nodes:
        raise ValueError(f"{text!r} is no node of {run.recipe.data!r}: they are numbered 0 … {source.num_nodes - 1}")
    return int(text)


def _outputs(run: Run, raw: Any, of: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
    """`of` what the model says of a raw batch, and the batch."""
    batch = run.dataset.preprocess(raw)
    names = task_option(run.recipe, "inputs")

    @jax.jit
    def outputs(variables: Any, batch: Any) -> jax.Array:
        return of(jnp.asarray(run.model.apply(variables, *(batch[name] for name in names))), batch)

    return outputs(run.variables, batch)
