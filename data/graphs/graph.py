"""A graph as a data set: its nodes, or its edges, are the examples, and each batch holds the whole graph."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Source, Spec
from data.graphs.sampling import TreeSource, tree_size

_LOG = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""A greater graph is not given whole to each step."""

_SPARSE = 0.25
"""Rows whose longest has at most this share of entries that are not 0 are kept as lists of them."""


class RawGraph(NamedTuple):
    """A graph as a reader finds it.

    Attributes:
        features: [node, feature].
        edges: from and to, integers [edge, 2].
        label: the class of each node, integer [node], -1 where it is not known.
        classes: their names.
        splits: nodes of each split.
    """

    features: np.ndarray
    edges: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]
    splits: Mapping[str, np.ndarray]


class GraphSource(ArraySource):
    """Examples of a graph that each batch holds whole.

    Args:
        arrays: those of the graph, whole in each batch.
        examples: those of the examples, example first.
    """

    def __init__(self, arrays: Batch, examples: Batch):
        self._graph = tuple(arrays)
        self._length = len(next(iter(examples.values())))
        self.arrays = {**arrays, **examples}

    def __len__(self) -> int:
        return self._length

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph."""
        return len(self.arrays["nodes" if "nodes" in self.arrays else "columns"])

    def gather(self, arrays: Any, indices: Any) -> Any:
        """The graph, and the examples at `indices`."""
        return {name: array if name in self._graph else array[indices] for name, array in arrays.items()}

    def take(self, indices: np.ndarray) -> "GraphSource":
        """Some of the examples, on the same graph."""
        graph = {name: self.arrays[name] for name in self._graph}
        return GraphSource(graph, {n: a[indices] for n, a in self.arrays.items() if n not in self._graph})


def checked_edges(edges: Any, num_nodes: int, where: str) -> np.ndarray:
    """Edges as int32 [edge, 2], each once and sorted by where they lead to.

    Raises:
        ValueError: if they are no integers, or name a node that is not there; the first such edge is named.
    """
    edges = np.asarray(edges)
    if not edges.size:
        edges = np.zeros((0, 2), np.int32)
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"{where}: edges are pairs of nodes, [edge, 2], not {list(edges.shape)}")
    if edges.dtype.kind not in "iu":
        raise ValueError(f"{where}: edges are numbers of nodes, integers; not {edges.dtype}")
    bad = np.argwhere((edges < 0) | (edges >= num_nodes))
    if len(bad):
        row = int(bad[0, 0])
        raise ValueError(
            f"{where}: edge {row} goes from node {edges[row, 0]} to node {edges[row, 1]}, and the nodes are "
            f"0 … {num_nodes - 1}"
        )
    distinct = np.unique(edges[:, ::-1], axis=0)[:, ::-1]
    if len(distinct) < len(edges):
        _LOG.warning("%s: %d edges are given more than once; each counts once", where, len(edges) - len(distinct))
    return distinct.astype(np.int32)


def both_ways(edges: np.ndarray) -> np.ndarray:
    """Each edge with the one back, each once, [edge, 2]."""
    return np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)


def checked_features(features: Any, where: str) -> np.ndarray:
    """Features as float32 [node, feature].

    Raises:
        ValueError: if there are none, or if they are no finite numbers; the first such node is named.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.size:
        raise ValueError(
            f"{where}: a graph has at least one node with a feature, [node, feature]; not {list(features.shape)}"
        )
    if features.dtype.kind not in "fiub":
        raise ValueError(f"{where}: features are numbers, not {features.dtype}")
    features = features.astype(np.float32)
    if not np.isfinite(features).all():
        node = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"{where}: features of node {node} are no finite numbers")
    return features


def graph_dataset(
    name: str,
    raw: RawGraph,
    *,
    examples: Literal["nodes", "links"] = "nodes",
    normalize: bool = True,
    fanouts: Sequence[int] = (),
    draws: int = 100,
    directed: bool = False,
    seed: int = 0,
) -> Dataset:
    """A data set of a graph.

    Of nodes, a batch holds the whole graph, `nodes` [node, feature], `senders` and `receivers` [edge], and of each
    example `node`, its number, and `label`. With `fanouts` an example is the neighbourhood of a node by itself, see
    `data.graphs.sampling`. Of links, an example is `pair`, two nodes with an edge between them, and `negative`, two
    without; -1 in training, where they are drawn anew each time. A tenth of the links are the test split, a twentieth
    the validation split; the graph has the rest.

    Features of which few are not 0 come as lists of these in the place of `nodes`, (columns, values, width), of a whole
    graph with (order, starts) behind; see `zoo.graphs.SparseRows`.

    Args:
        name: of the data set.
        raw: the graph.
        examples: what is to be told: classes of nodes, or links.
        normalize: whether features of a node are divided by their sum.
        fanouts: neighbours drawn of a node, of each of these, and so on, such as [10, 5]; none for the whole graph.
        draws: how many times a neighbourhood is drawn anew in an epoch.
        directed: whether an edge leads one way; else there is one back.
        seed: of what is drawn.

    Raises:
        ValueError: if parts do not fit together, or an option makes no sense.
    """
    features = checked_features(raw.features, name)
    edges = checked_edges(raw.edges, len(features), name)
    if not directed:
        edges = both_ways(edges)
    if len(raw.label) != len(features):
        raise ValueError(f"{name}: there are {len(features)} nodes with features, and {len(raw.label)} labels")
    for one_split, other in itertools.combinations(raw.splits, 2):
        if len(both := np.intersect1d(raw.splits[one_split], raw.splits[other])):
            raise ValueError(f"{name}: node {both[0]} is in the split {one_split} and in {other}; it belongs to one")
    if normalize:
        total = features.sum(axis=1, keepdims=True)
        features = features / np.where(total == 0, 1, total)
    nodes = _rows(features)
    width = features.shape[1]
    if examples not in ("nodes", "links"):
        raise ValueError(f"examples must be 'nodes' or 'links', not {examples!r}")
    if fanouts and (examples == "links" or min(fanouts) < 1 or draws < 1):
        raise ValueError(
            f"fanouts are numbers of neighbours, at least 1, for examples='nodes', with draws of at least 1; not "
            f"{list(fanouts)} and {draws} for {examples!r}"
        )
    graph = {"senders": edges[:, 0].astype(np.int32), "receivers": edges[:, 1].astype(np.int32)}
    whole = sum(array.nbytes for array in (*nodes.values(), *graph.values()))
    if whole > MOST_BYTES and not fanouts:
        raise ValueError(
            f"{name} has {whole / 2**30:.1f} GiB, too many to give whole to each step: take neighbourhoods, such as "
            "data_options.fanouts=[10,5]"
        )
    splits: dict[str, Source]
    one = Field((), "int32")
    fields = {"nodes": Field((width,), "float32"), "senders": one, "receivers": one}
    classes = raw.classes
    if examples == "links":
        links, classes = _links(edges, len(features), seed, name), ()
        train = both_ways(links["train"]["pair"])
        graph = {"senders": train[:, 0], "receivers": train[:, 1]}
        splits = {split: GraphSource({**_by_column(nodes), **graph}, each) for split, each in links.items()}
        fields |= {"pair": Field((2,), "int32"), "negative": Field((2,), "int32")}
    elif fanouts:
        size = tree_size(fanouts)
        splits = {
            split: TreeSource(nodes, edges, rows, raw.label[rows], fanouts, draws if split == "train" else 1, seed)
            for split, rows in raw.splits.items()
        }
        fields = {
            "nodes": Field((size, width), "float32"),
            "senders": Field((size - 1,), "int32"),
            "receivers": Field((size - 1,), "int32"),
            "node": one,
            "node_mask": Field((size,), "bool"),
            "label": one,
        }
    else:
        graph = {**_by_column(nodes), **graph}
        splits = {
            split: GraphSource(graph, {"node": rows.astype(np.int32), "label": raw.label[rows]})
            for split, rows in raw.splits.items()
        }
        fields |= {"node": one, "label": one}
    return Dataset(name, Spec(fields, classes), splits, _assembled, stratified=examples == "nodes" and not fanouts)


def _assembled(batch: Batch) -> Any:
    """The batch with sparse features as one field."""
    if "columns" not in batch:
        return batch
    parts = [name for name in ("columns", "values", "width", "order", "starts") if name in batch]
    rest = {name: array for name, array in batch.items() if name not in parts}
    return {**rest, "nodes": tuple(batch[name] for name in parts)}


def _rows(features: np.ndarray) -> Batch:
    """Features as they are, or as lists of those that are not 0 where these are few."""
    longest = max(1, int((features != 0).sum(axis=1).max()))
    if longest > _SPARSE * features.shape[1]:
        return {"nodes": features}
    order = np.argsort(features == 0, axis=1, kind="stable")[:, :longest].astype(np.int32)
    values = np.take_along_axis(features, order, axis=1)
    return {"columns": order, "values": values, "width": np.zeros((len(features), 0, features.shape[1]), np.float32)}


def _by_column(nodes: Batch) -> Batch:
    """Features of a graph that is the same in each batch: lists are also told by column, once."""
    if "columns" not in nodes:
        return nodes
    stored = np.flatnonzero(nodes["values"])
    columns = nodes["columns"].reshape(-1)[stored]
    by_column = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[by_column], np.arange(nodes["width"].shape[-1] + 1))
    return {**nodes, "order": stored[by_column].astype(np.int32), "starts": starts.astype(np.int32)}


def _links(edges: np.ndarray, num_nodes: int, seed: int, where: str) -> dict[str, Batch]:
    """Links of each split, and for those of evaluation as many pairs without one."""
    pairs = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    test, validation = len(pairs) // 10, len(pairs) // 20
    possible = num_nodes * (num_nodes - 1) // 2 - len(pairs)
    if not validation or possible < test + validation:
        raise ValueError(
            f"{where} has {len(pairs)} links and {possible} pairs without one: too few for splits of links, which are "
            "a tenth and a twentieth of them"
        )
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(pairs).astype(np.int32)
    linked = {(int(a), int(b)) for a, b in pairs}
    without: list[tuple[int, int]] = []
    while len(without) < test + validation:
        a, b = sorted(rng.integers(0, num_nodes, 2).tolist())
        if a != b and (a, b) not in linked:
            linked.add((a, b))
            without.append((a, b))
    negative = np.array(without, np.int32)
    rest = pairs[test + validation :]
    return {
        "train": {"pair": rest, "negative": np.full_like(rest, -1)},
        "validation": {"pair": pairs[test : test + validation], "negative": negative[test:]},
        "test": {"pair": pairs[:test], "negative": negative[:test]},
    }
