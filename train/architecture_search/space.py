"""The space of cells, as choices and as the weights of a supernet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.architecture_search.methods import Architecture
from zoo.vision.cells import INPUTS, OPERATIONS, Edge, Genotype
from zoo.vision.darts import num_edges, require_operations

SKIP = "skip_connect"


class CellSpace(NamedTuple):
    """Cells of `num_nodes` nodes, each with one of `operations` on two edges.

    A node makes three choices: which two of the nodes before it, and an operation for each.
    """

    operations: tuple[str, ...] = OPERATIONS
    num_nodes: int = 4

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a genotype may have on an edge."""
        return tuple(kind for kind in self.operations if kind != "none")

    def pairs(self, node: int) -> list[tuple[int, int]]:
        """The inputs that a node may have."""
        return list(itertools.combinations(range(INPUTS + node), 2))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each choice has, see `train.architecture_search.methods`.

        Raises:
          ValueError: the space is empty.
        """
        require_operations(self.operations)
        if self.num_nodes < 1:
            raise ValueError(f"the space is empty: num_nodes must be at least 1, not {self.num_nodes}")
        kinds = len(self.kinds)
        cell = [size for node in range(self.num_nodes) for size in (len(self.pairs(node)), kinds, kinds)]
        return (*cell, *cell)

    def genotype(self, architecture: Architecture) -> Genotype:
        """The genotype that choices make."""
        half = len(architecture) // 2
        return Genotype(self._cell(architecture[:half]), self._cell(architecture[half:]))

    def _cell(self, choices: Sequence[int]) -> tuple[Edge, ...]:
        edges: list[Edge] = []
        for node in range(self.num_nodes):
            pair, *kinds = choices[3 * node : 3 * node + 3]
            sources = self.pairs(node)[pair]
            edges += [(self.kinds[kind], source) for kind, source in zip(kinds, sources, strict=True)]
        return tuple(edges)


def derive(weights: np.ndarray, operations: Sequence[str], *, max_skips: int | None = None) -> tuple[Edge, ...]:
    """The cell that the weights of a supernet stand for (DARTS, section 2.4).

    Of each edge the strongest operation but "none" counts; of each node the two strongest edges are kept.

    Args:
      weights: the softmax of α, `[edges, operations]`, edges in the order of the nodes.
      operations: what the columns are of.
      max_skips: the most skip connections (P-DARTS, Chen et al. 2019, section 3.3.2). While there are more, the weakest
        of them is taken out, and the cell is derived anew. None for no limit.

    Raises:
      ValueError: the weights do not fit the operations, or no whole cell.
    """
    weights = np.array(weights, np.float64)
    nodes = next((n for n in range(1, 100) if num_edges(n) >= len(weights)), 0)
    if weights.ndim != 2 or weights.shape[1] != len(operations) or num_edges(nodes) != len(weights):
        raise ValueError(f"weights must be [2 + 3 + … edges, {len(operations)} operations], not {list(weights.shape)}")
    weights[:, [kind == "none" for kind in operations]] = -1
    while True:
        edges, kept = _strongest(weights, operations, nodes)
        skips = [row for row, (kind, _) in zip(kept, edges, strict=True) if kind == SKIP]
        if max_skips is None or len(skips) <= max_skips:
            return edges
        column = list(operations).index(SKIP)
        weights[min(skips, key=lambda row: weights[row, column]), column] = -1


def _strongest(weights: np.ndarray, operations: Sequence[str], nodes: int) -> tuple[tuple[Edge, ...], list[int]]:
    edges: list[Edge] = []
    kept: list[int] = []
    for node in range(nodes):
        first = num_edges(node)
        strength = weights[first : first + INPUTS + node].max(axis=1)
        for source in sorted(np.argsort(-strength, kind="stable")[:INPUTS].tolist()):
            edges.append((operations[int(weights[first + source].argmax())], source))
            kept.append(first + source)
    return tuple(edges), kept


def derive_bench(weights: np.ndarray, operations: Sequence[str], *, max_skips: int | None = None) -> tuple[str, ...]:
    """The operation of each edge of a cell of NAS-Bench-201: the strongest, "none" among them.

    With `max_skips`, only the strongest of the skip connections stay; the next in strength takes their place.
    """
    weights = np.array(weights, np.float64)
    column = list(operations).index(SKIP)
    while True:
        chosen = weights.argmax(axis=1)
        skips = [edge for edge in range(len(weights)) if chosen[edge] == column]
        if max_skips is None or len(skips) <= max_skips:
            return tuple(operations[int(kind)] for kind in chosen)
        weights[min(skips, key=lambda edge: weights[edge, column]), column] = -1


def num_skips(edges: Sequence[Edge] | Sequence[str]) -> int:
    """Skip connections of a cell."""
    return sum(SKIP in (edge, edge[0]) for edge in edges)
