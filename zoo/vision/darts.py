"""DARTS: differentiable architecture search (Liu, Simonyan, Yang 2019; guide, section 13.1).

The network of a genotype, and the supernet in which genotypes are searched: each of its edges is a mixture of all
operations, weighted by the softmax of architecture parameters α that are trained with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dense, global_avg_pool, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import avg_pool
from zoo.options import unknown
from zoo.registry import register
from zoo.vision.cells import (
    INPUTS,
    OPERATIONS,
    Edge,
    FactorizedReduce,
    Genotype,
    Layers,
    MixedOperation,
    ReLUConvNorm,
    drop,
    layers,
    operation,
    read_genotype,
)

STEM = 3
"""Features of the stem in those of a first cell."""

ARCHITECTURE = "alpha_"
"""How the names of architecture parameters begin."""

Cell = Callable[[jax.Array, jax.Array, bool, int, str], jax.Array]
"""(both inputs, whether it reduces, features, name) → output."""


def cells_of(num_cells: int, features: int) -> Iterator[tuple[bool, int]]:
    """Whether each cell reduces, at a third and two thirds of the depth, and its features, which double there."""
    for index in range(num_cells):
        reduces = index in (num_cells // 3, 2 * num_cells // 3)
        features *= 2 if reduces else 1
        yield reduces, features


def prepared(before: jax.Array, last: jax.Array, features: int, layers: Layers) -> list[jax.Array]:
    """Both inputs of a cell with as many features as its nodes; that before the last is halved where it is larger."""
    same = before.shape[1:3] == last.shape[1:3]
    first = (
        ReLUConvNorm(features, 1, layers, name="input0") if same else FactorizedReduce(features, layers, name="input0")
    )
    return [first(before), ReLUConvNorm(features, 1, layers, name="input1")(last)]


class GenotypeCell(nn.Module):
    """Nodes that add two edges each; all nodes side by side are the output."""

    edges: Sequence[Edge]
    features: int
    reduces: bool
    layers: Layers
    drop_path_rate: float
    train: bool

    @nn.compact
    def __call__(self, before: jax.Array, last: jax.Array) -> jax.Array:
        """Outputs of the two cells before → `[batch, height', width', nodes · features]`."""
        states = prepared(before, last, self.features, self.layers)
        for number, (kind, source) in enumerate(self.edges):
            stride = 2 if self.reduces and source < INPUTS else 1
            y = operation(kind, self.features, stride, self.layers, f"edge{number}")(states[source])
            y = drop(y, kind, stride, self.drop_path_rate, self.train)
            if number % INPUTS == 0:
                states.append(y)
            else:
                states[-1] = states[-1] + y
        return jnp.concatenate(states[INPUTS:], axis=-1)


class SearchCell(nn.Module):
    """Nodes that add a mixture from each node before; weights `[edges, operations]`."""

    operations: Sequence[str]
    num_nodes: int
    features: int
    reduces: bool
    layers: Layers

    @nn.compact
    def __call__(self, before: jax.Array, last: jax.Array, weights: jax.Array) -> jax.Array:
        """Outputs of the two cells before → `[batch, height', width', nodes · features]`."""
        states, edge = prepared(before, last, self.features, self.layers), 0
        for _ in range(self.num_nodes):
            total = []
            for source, state in enumerate(states):
                stride = 2 if self.reduces and source < INPUTS else 1
                mixed = MixedOperation(self.operations, self.features, stride, self.layers, name=f"edge{edge}")
                total.append(mixed(state, weights[edge]))
                edge += 1
            states.append(sum(total[1:], start=total[0]))
        return jnp.concatenate(states[INPUTS:], axis=-1)


class DARTS(nn.Module):
    """The network of a genotype: a stem, cells of which two halve the image, global pooling and a dense layer.

    `genotype` is a name of `zoo.cells.GENOTYPES`, or plain data, see there. `drop_path_rate` drops edges that are no
    identities. The paper lets it grow from 0 over the training; here it is the same from the start. With `auxiliary`,
    training gives the logits and those of a second head behind the second halving, for the task classification, which
    adds its loss. `num_classes=0` gives pooled features; `stem` and `outputs1` … of the cells are named intermediates.
    """

    genotype: str | Mapping[str, Any] | Genotype = "darts_v2"
    num_classes: int = 10
    features: int = 36
    num_cells: int = 20
    auxiliary: bool = False
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if isinstance(self.genotype, Mapping):  # else the module has no hash
            object.__setattr__(self, "genotype", read_genotype(self.genotype))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="DARTS")
        genotype = read_genotype(self.genotype)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        made = layers(train, **options)
        before = last = _stem(self.features, made)(x)
        record(self, "stem", last)
        auxiliary = None
        for index, (reduces, features) in enumerate(cells_of(self.num_cells, self.features)):
            edges, name = genotype.reduce if reduces else genotype.normal, f"cell{index + 1}"
            cell = GenotypeCell(edges, features, reduces, made, self.drop_path_rate, train, name=name)
            before, last = last, cell(before, last)
            record(self, f"outputs{index + 1}", last)
            if self.auxiliary and index == 2 * self.num_cells // 3 and (train or self.is_initializing()):
                auxiliary = AuxiliaryHead(self.num_classes, made, self.dtype, self.param_dtype, name="auxiliary")(last)
        pooled = global_avg_pool(last)
        if not self.num_classes:
            return pooled
        logits = Dense(self.num_classes, **options, name="head")(pooled)
        return (logits, auxiliary) if train and auxiliary is not None else logits


def _stem(features: int, made: Layers) -> Callable[[jax.Array], jax.Array]:
    conv, norm = made.conv(STEM * features, 3, padding=1, name="conv_stem"), made.norm("norm_stem")
    return lambda x: norm(conv(x))


class AuxiliaryHead(nn.Module):
    """A second classifier in the middle of the network (Szegedy et al. 2015), for features of 8×8 in the paper."""

    num_classes: int
    layers: Layers
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height ≥ 8, width ≥ 8, channels]` → logits `[batch, num_classes]`."""
        if min(x.shape[1:3]) < 8:
            raise ValueError(
                f"the auxiliary head takes features of 8×8 or more, not {x.shape[1]}×{x.shape[2]}: images of 32×32 or "
                "more, or auxiliary=False"
            )
        x = avg_pool(relu(x), (5, 5), (3, 3))
        x = relu(self.layers.norm("norm1")(self.layers.conv(128, 1, padding=0, name="conv1")(x)))
        x = relu(self.layers.norm("norm2")(self.layers.conv(768, 2, padding=0, name="conv2")(x)))
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(self.num_classes, **options, name="head")(global_avg_pool(x))


def num_edges(num_nodes: int) -> int:
    """Of a cell before any is left out: node i has i + 2."""
    return sum(INPUTS + node for node in range(num_nodes))


class DARTSSupernet(nn.Module):
    """The network in which a genotype is searched: all operations on all edges, mixed by the softmax of α (eq. 2).

    `alpha_normal` and `alpha_reduce`, `[edges, operations]`, are shared by the cells of a kind; batch norms in cells
    have no parameters. `operations` are of `zoo.cells.OPERATIONS`.
    """

    operations: Sequence[str] = OPERATIONS
    num_nodes: int = 4
    num_classes: int = 10
    features: int = 16
    num_cells: int = 8
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="DARTSSupernet")
        require_operations(self.operations)
        made = layers(train, affine=False, dtype=self.dtype, param_dtype=self.param_dtype)
        shape = (num_edges(self.num_nodes), len(self.operations))
        # Not symmetric, so that the first steps break no ties: as the paper's code, 10⁻³ times a normal number.
        alphas = {
            kind: self.param(f"{ARCHITECTURE}{kind}", nn.initializers.normal(1e-3), shape, self.param_dtype)
            for kind in ("normal", "reduce")
        }
        before = last = _stem(self.features, layers(train, dtype=self.dtype, param_dtype=self.param_dtype))(x)
        record(self, "stem", last)
        for index, (reduces, features) in enumerate(cells_of(self.num_cells, self.features)):
            weights = jax.nn.softmax(alphas["reduce" if reduces else "normal"], axis=-1)
            name = f"cell{index + 1}"
            cell = SearchCell(self.operations, self.num_nodes, features, reduces, made, name=name)
            before, last = last, cell(before, last, weights)
            record(self, f"outputs{index + 1}", last)
        pooled = global_avg_pool(last)
        if not self.num_classes:
            return pooled
        return Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")(pooled)


def require_operations(operations: Sequence[str], known: Sequence[str] = OPERATIONS) -> None:
    """Refuses a space that has nothing to choose from.

    Raises:
      ValueError: there are fewer than two operations beside "none", one twice, or an unknown one.
    """
    for kind in operations:
        if kind not in known:
            raise ValueError(unknown("operation", str(kind), known))
    if len(set(operations)) < len(operations):
        raise ValueError(f"operations has each operation once, not {', '.join(operations)}")
    if len(set(operations) - {"none"}) < 2:
        raise ValueError(
            f"the space is empty: operations must hold two or more beside none, of {', '.join(known)}; it holds "
            f"{', '.join(operations) or 'none'}"
        )


_PAPER = "H. Liu, K. Simonyan, Y. Yang, DARTS: differentiable architecture search, ICLR 2019"

SMALL_SPACE = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
"""Of the small networks: what 8×8 images need, and a CPU compiles in seconds."""

for _name, _num_parameters in (("darts_v1", 3_169_414), ("darts_v2", 3_349_342)):
    register(_name, input_shape=(32, 32, 3), num_parameters=_num_parameters, paper=_PAPER, genotype=_name)(DARTS)

register(
    "mini_darts",
    input_shape=(8, 8, 1),
    num_parameters=4_610,
    paper=f"the guide, section 13.1; {_PAPER}",
    genotype={
        "normal": [["sep_conv_3x3", 0], ["sep_conv_3x3", 1], ["skip_connect", 0], ["sep_conv_3x3", 1]],
        "reduce": [["avg_pool_3x3", 0], ["avg_pool_3x3", 1], ["skip_connect", 2], ["avg_pool_3x3", 0]],
    },
    features=8,
    num_cells=3,
)(DARTS)

register("darts_supernet", input_shape=(32, 32, 3), num_parameters=1_930_842, paper=_PAPER)(DARTSSupernet)
register(
    "mini_darts_supernet",
    input_shape=(8, 8, 1),
    num_parameters=36_364,
    paper=f"the guide, section 13.1; {_PAPER}",
    operations=SMALL_SPACE,
    num_nodes=2,
    features=8,
    num_cells=3,
)(DARTSSupernet)
