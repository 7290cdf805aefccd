"""Graphs that are drawn, not collected."""

import numpy as np

from data.dataset import ArraySource, Batch, Dataset, Field, Spec
from data.registry import register


@register("rings")
def rings(*, size: int = 1000, most_nodes: int = 20, noise: int = 2, seed: int = 0) -> Dataset:
    """Graphs that are one ring of nodes, or two, with some chords between random nodes: which?

    Nodes have one feature, 1, and so the answer is in the edges alone. Graphs have 8 to `most_nodes` nodes and are
    padded to one size: `nodes` [most_nodes, 1], `senders` and `receivers` [edges], where `most_nodes` stands for no
    edge, and `node_mask` [most_nodes]. The two rings are a triangle and the rest.

    Args:
        size: train examples; there are 500 test examples.
        most_nodes: at least 8.
        noise: chords in each graph.
        seed: of the graphs drawn.
    """
    if most_nodes < 8 or size < 1 or noise < 0:
        raise ValueError(f"most_nodes must be at least 8, size 1 and noise 0; got {most_nodes}, {size} and {noise}")
    most_edges = 2 * (most_nodes + noise)

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
            count = int(rng.integers(8, most_nodes + 1))
            order = rng.permutation(count)
            parts = [order[:3], order[3:]] if batch["label"][row] else [order]
            ends = [np.stack([part, np.roll(part, 1)], axis=1) for part in parts]
            chords = rng.integers(0, count, (noise, 2))
            edges = np.concatenate([*ends, chords[chords[:, 0] != chords[:, 1]]])
            edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
            batch["nodes"][row, :count] = 1
            batch["node_mask"][row, :count] = True
            batch["senders"][row, : len(edges)], batch["receivers"][row, : len(edges)] = edges.T
        return ArraySource(batch)

    fields = {
        "nodes": Field((most_nodes, 1), "float32"),
        "senders": Field((most_edges,), "int32"),
        "receivers": Field((most_edges,), "int32"),
        "node_mask": Field((most_nodes,), "bool"),
        "label": Field((), "int32"),
    }
    return Dataset(
        "rings", Spec(fields, ("one", "two")), {"train": draw(0, size), "test": draw(1, 500)}, lambda batch: batch
    )
