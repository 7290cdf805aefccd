"""Graphs that are drawn, not collected."""

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec
from data.registry import register

_RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
_MOTIFS = {"house": [*_RING, (1, 4)], "ring": _RING}
"""Five nodes each: a ring, and one with a wall between a square and its roof."""

_NODES = 5


@register("motifs")
def motifs(*, size: int = 1000, most_nodes: int = 25, noise: int = 2, seed: int = 0) -> Dataset:
    """Graphs that a house hangs on, or a ring of five nodes: which? After BA-2motifs (Luo et al. 2020, PGExplainer).

    The rest of a graph is a tree that grows by preferential attachment (Barabási & Albert 1999), to which some edges
    between random nodes are added, so that the number of edges does not tell the class. Nodes have one feature, 1.
    Graphs have 10 to `most_nodes` nodes and are padded to one size: `nodes` [most_nodes, 1], `senders` and `receivers`
    [edges], where `most_nodes` stands for no edge, and `node_mask` [most_nodes].

    Args:
        size: train examples; there are 500 test examples.
        most_nodes: at least 10.
        noise: most edges that are added to a graph.
        seed: of the graphs drawn.
    """
    if most_nodes < 2 * _NODES or size < 1 or noise < 0:
        raise ValueError(f"most_nodes must be at least 10, size 1 and noise 0; got {most_nodes}, {size} and {noise}")
    most_edges = 2 * (most_nodes + 1 + noise)
    names = tuple(_MOTIFS)

    def draw(split: int, examples: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        batch: Batch = {
            "nodes": np.zeros((examples, most_nodes, 1), np.float32),
            "senders": np.full((examples, most_edges), most_nodes, np.int32),
            "receivers": np.full((examples, most_edges), most_nodes, np.int32),
            "node_mask": np.zeros((examples, most_nodes), bool),
            "label": rng.integers(0, 2, examples).astype(np.int32),
        }
        for row in range(examples):
            base = int(rng.integers(2 * _NODES, most_nodes + 1)) - _NODES
            edges = [(0, 1)]
            for node in range(2, base):  # an end of a random edge: as likely as it has edges
                edges.append((node, int(rng.choice(np.ravel(edges)))))
            extra = rng.integers(0, base, (int(rng.integers(0, noise + 1)), 2))
            edges += [(int(a), int(b)) for a, b in extra if a != b]
            edges += [(base + a, base + b) for a, b in _MOTIFS[names[batch["label"][row]]]]
            edges.append((int(rng.integers(0, base)), base + int(rng.integers(0, _NODES))))
            ends = rng.permutation(base + _NODES)[np.array(edges)]
            both = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
            batch["nodes"][row, : base + _NODES] = 1
            batch["node_mask"][row, : base + _NODES] = True
            batch["senders"][row, : len(both)], batch["receivers"][row, : len(both)] = both.T
        return ArraySource(batch)

    fields = {
        "nodes": Field((most_nodes, 1), "float32"),
        "senders": Field((most_edges,), "int32"),
        "receivers": Field((most_edges,), "int32"),
        "node_mask": Field((most_nodes,), "bool"),
        "label": Field((), "int32"),
    }
    return Dataset("motifs", Spec(fields, names), {"train": draw(0, size), "test": draw(1, 500)}, lambda batch: batch)
