"""Neighbourhoods of single nodes, for graphs that no device can hold (Hamilton et al. 2017, section 3.1)."""

import copy
from collections.abc import Sequence

import numpy as np

from data.dataset import Batch


def tree_size(fanouts: Sequence[int]) -> int:
    """Nodes of a tree: the root, `fanouts[0]` below it, `fanouts[1]` below each of these, and so on."""
    return 1 + int(np.cumprod(fanouts).sum())


class TreeSource:
    """Examples are nodes with neighbours drawn at random, as a tree, padded to one size.

    Of a node with at most so many neighbours all are taken, of others different ones are drawn. What is drawn is a
    function of the seed and the number of the example alone: example i is node `i % nodes`, drawn for the
    `i // nodes`-th time. An epoch so has `draws` neighbourhoods of each node.

    Args:
        features: arrays by field, node first.
        edges: from and to [edge, 2]: neighbours of a node are those whose edges lead to it.
        nodes: of the split.
        label: of these nodes.
        fanouts: see `tree_size`.
        draws: see above.
        seed: of what is drawn.
    """

    def __init__(
        self,
        features: Batch,
        edges: np.ndarray,
        nodes: np.ndarray,
        label: np.ndarray,
        fanouts: Sequence[int],
        draws: int,
        seed: int,
    ):
        self._features, self._nodes, self._fanouts, self._seed = features, np.asarray(nodes), tuple(fanouts), seed
        num_nodes = len(next(iter(features.values())))
        order = np.argsort(edges[:, 1], kind="stable")
        self._neighbours = edges[order, 0].astype(np.int64)
        self._first = np.concatenate([[0], np.cumsum(np.bincount(edges[:, 1], minlength=num_nodes))])
        self.labels = np.tile(np.asarray(label, np.int32), draws)
        parents = np.concatenate([np.zeros(0, np.int64), *self._parents()])
        self._parent = parents.astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        indices = np.asarray(indices)
        trees, there = self.trees(indices)
        size = trees.shape[1]
        below = np.broadcast_to(np.arange(1, size, dtype=np.int32), there[:, 1:].shape)
        batch = {name: array[trees] for name, array in self._features.items()}
        for name in ("nodes", "values"):
            if name in batch:
                batch[name] = np.where(there.reshape(*there.shape, *[1] * (batch[name].ndim - 2)), batch[name], 0)
        return {
            **batch,
            "senders": np.where(there[:, 1:], below, size).astype(np.int32),
            "receivers": np.where(there[:, 1:], self._parent, size).astype(np.int32),
            "node": np.zeros(len(indices), np.int32),
            "node_mask": there,
            "label": self.labels[indices],
        }

    def of(self, nodes: np.ndarray) -> "TreeSource":
        """Neighbourhoods of other nodes of the graph, each drawn once; their labels are -1."""
        other = copy.copy(self)
        other._nodes, other.labels = np.asarray(nodes), np.full(len(nodes), -1, np.int32)
        return other

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph."""
        return len(self._first) - 1

    def trees(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of the trees of these examples, int64 [example, tree], and which places are taken, bool."""
        level = self._nodes[indices % len(self._nodes)].reshape(-1, 1)
        taken = np.ones(level.shape, bool)
        levels, all_taken = [level], [taken]
        for depth, fanout in enumerate(self._fanouts):
            chosen, there = self._draw(level, taken, fanout, indices, depth)
            level, taken = chosen.reshape(len(level), -1), there.reshape(len(level), -1)
            levels.append(level)
            all_taken.append(taken)
        return np.concatenate(levels, axis=1), np.concatenate(all_taken, axis=1)

    def _parents(self) -> list[np.ndarray]:
        """Of each place below the root, the place above it, level by level."""
        parents, first, count = [], 0, 1
        for fanout in self._fanouts:
            parents.append(first + np.repeat(np.arange(count), fanout))
            first, count = first + count, count * fanout
        return parents

    def _draw(
        self, nodes: np.ndarray, taken: np.ndarray, fanout: int, indices: np.ndarray, depth: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`fanout` neighbours of each node, [example, node] → [example, node, fanout], and which there are.

        Floyd's algorithm (Bentley & Floyd 1987): each set of neighbours is as probable as any other.
        """
        degree = np.where(taken, self._first[nodes + 1] - self._first[nodes], 0)
        places = np.arange(nodes.shape[1], dtype=np.uint64)[None]
        chosen = np.full((*nodes.shape, fanout), -1, np.int64)
        for turn in range(fanout):
            last = degree - fanout + turn  # below 0 all are taken in order
            counter = (places * np.uint64(fanout) + np.uint64(turn)) * np.uint64(64) + np.uint64(depth)
            unit = _unit(self._seed, indices.astype(np.uint64)[:, None], counter)
            drawn = (unit * np.maximum(last + 1, 1)).astype(np.int64)
            again = (chosen[..., :turn] == drawn[..., None]).any(axis=-1)
            value = np.where(again, last, drawn)
            chosen[..., turn] = np.where(degree <= fanout, np.where(turn < degree, turn, -1), value)
        there = chosen >= 0
        at = self._first[nodes][..., None] + np.maximum(chosen, 0)
        at = np.minimum(at, max(len(self._neighbours) - 1, 0))
        found = self._neighbours[at] if len(self._neighbours) else np.zeros_like(at)
        return np.where(there, found, nodes[..., None]), there


def _unit(seed: int, example: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) that depend on these three alone, by SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        return (_mix(_mix(_mix(np.uint64(seed)) ^ example) ^ counter) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    x = np.asarray(x + np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
