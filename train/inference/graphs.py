"""What a trained run says of the nodes of its graph, of links between them, and of whole graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import data
from data.graphs.folder import node_names
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

    Args:
      run: of such a task.
      nodes: their numbers, or names where the graph is a folder of tables.

    Raises:
      ValueError: there is no such node.
    """
    source = _graph_of(run)
    known = _numbers(run, source)
    numbers = [_node(run, known, each) for each in nodes]
    if isinstance(source, TreeSource):
        raw = source.of(np.array(numbers))[np.arange(len(numbers))]
    else:
        raw = {**source[np.zeros(len(numbers), np.int64)], "node": np.array(numbers, np.int32)}
    logits = _outputs(run, raw, lambda logits, _: logits)
    return [f"node {each}" for each in nodes], np.asarray(class_probabilities(logits)), classes_of(run)


def probability_of_links(run: Run, pairs: Sequence[str]) -> Told:
    """How probable an edge between two nodes of the run's graph is; a pair is such as "3-17", or of names.

    Raises:
      ValueError: something is no pair of nodes that there are.
    """
    source = _graph_of(run)
    known = _numbers(run, source)
    numbers = []
    for each in pairs:
        ends = [(each[:at], each[at + 1 :]) for at, letter in enumerate(each) if letter == "-"]
        if not ends:
            raise ValueError(f"{each!r} is no pair of nodes: give two with a hyphen between, such as 3-17")
        # Names, too, may have hyphens.
        pair = next((pair for pair in ends if known.keys() >= {*pair}), ends[0])
        numbers.append([_node(run, known, end) for end in pair])
    chosen = np.array(numbers, np.int32)
    raw = {**source[np.zeros(len(chosen), np.int64)], "pair": chosen}

    def scores(embeddings: jax.Array, batch: Any) -> jax.Array:
        ends = embeddings.astype(jnp.float32)[batch["pair"]]
        return (ends[:, 0] * ends[:, 1]).sum(axis=-1)

    linked = np.asarray(jax.nn.sigmoid(_outputs(run, raw, scores)))
    return list(pairs), np.stack([1 - linked, linked], axis=1), LINKED


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


def _numbers(run: Run, source: GraphSource | TreeSource) -> dict[str, int]:
    """The number of each node by what a user calls it: a name where the graph has names, else the number itself."""
    kind, _, path = run.recipe.data.partition(":")
    names = node_names(path) if kind == "graph" else []
    return {name: number for number, name in enumerate(names or map(str, range(source.num_nodes)))}


def _node(run: Run, known: dict[str, int], text: str) -> int:
    if text not in known:
        first = next(iter(known))
        named = run.recipe.data.startswith("graph:") and first != "0"
        called = f"those of the column id, such as {first!r}" if named else f"numbered 0 … {len(known) - 1}"
        raise ValueError(f"{text!r} is no node of {run.recipe.data!r}: they are {called}")
    return known[text]


def _outputs(run: Run, raw: Any, of: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
    """`of` what the model says of a raw batch, and the batch."""
    batch = run.dataset.preprocess(raw)
    names = task_option(run.recipe, "inputs")

    @jax.jit
    def outputs(variables: Any, batch: Any) -> jax.Array:
        return of(jnp.asarray(run.model.apply(variables, *(batch[name] for name in names))), batch)

    return outputs(run.variables, batch)
