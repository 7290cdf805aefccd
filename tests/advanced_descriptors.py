"""The rows of `tests.descriptors` for the guide's chapter 13: searched cells, neural ODEs, graphs.

Examples of networks on graphs are nodes without edges; with edges, see `tests.zoo.graphs`.
"""

from __future__ import annotations

from typing import Any

_SMALL_GRAPH = {"hidden_sizes": (5,), "num_classes": 3}


def _row(num_parameters: int, shape: tuple[int, ...], small: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return dict(num_parameters=num_parameters, shape=shape, small=small, **fields)


def _darts(num_parameters: int) -> dict[str, Any]:
    """Small, all are the same module: a normal cell of one node and two that reduce."""
    cell = [["sep_conv_3x3", 0], ["dil_conv_3x3", 1]]
    return _row(
        num_parameters,
        (4, 4, 3),
        {"genotype": {"normal": cell, "reduce": cell}, "features": 4, "num_cells": 3, "num_classes": 3},
        num_features=16,
        intermediates={"stem": (4, 4, 12), "outputs1": (4, 4, 4), "outputs2": (2, 2, 8), "outputs3": (1, 1, 16)},
    )


def _supernet(num_parameters: int) -> dict[str, Any]:
    """Small, both are the same module: mixtures of four operations."""
    small = {"operations": ("none", "avg_pool_3x3", "skip_connect", "dil_conv_3x3"), "num_nodes": 1}
    return _row(
        num_parameters,
        (4, 4, 3),
        {**small, "features": 4, "num_cells": 3, "num_classes": 3},
        num_features=16,
        intermediates={"stem": (4, 4, 12), "outputs1": (4, 4, 4), "outputs2": (2, 2, 8), "outputs3": (1, 1, 16)},
    )


def _neural_ode(num_parameters: int) -> dict[str, Any]:
    """Small, both are the same module; its fixed steps do not depend on the batch, as an adaptive solver's do."""
    small = {"hidden_sizes": (5, 4), "augment": 1, "solver": "fixed_rk4", "num_steps": 2, "num_classes": 3}
    return _row(num_parameters, (3,), small, num_features=4, intermediates={"flow": (4,)})


ADVANCED: dict[str, dict[str, Any]] = {
    "darts_v1": _darts(3_169_414),
    "darts_v2": _darts(3_349_342),
    "mini_darts": _darts(4_610),
    "darts_supernet": _supernet(1_930_842),
    "mini_darts_supernet": _supernet(36364),
    "nas_bench_201": _row(
        1686136,
        (3, 3, 3),
        {"features": 4, "num_cells": 1, "num_classes": 3},
        num_features=16,
        intermediates={"stage1": (3, 3, 4), "stage2": (2, 2, 8), "stage3": (1, 1, 16)},
    ),
    "ode_net": _row(
        208_266,
        (16, 16, 1),
        {"features": 4, "num_classes": 3, "solver": "fixed_heun", "num_steps": 1},
        num_features=4,
        intermediates={"stem": (3, 3, 4), "block": (3, 3, 4)},
    ),
    "ode_net_without_block": _row(
        132_874, (16, 16, 1), {"features": 4, "num_classes": 3}, num_features=4, intermediates={"stem": (3, 3, 4)}
    ),
    "neural_ode": _neural_ode(4_552),
    "augmented_neural_ode": _neural_ode(4_683),
    "ffjord": _row(4_546, (3,), {"hidden_sizes": (5, 4), "solver": "fixed_rk4", "num_steps": 2}, output_shapes=[()]),
    "latent_ode": _row(
        1_679,
        (6, 2),
        {"hidden_size": 5, "encoder_size": 4, "latent_size": 3},
        output_shapes=[(6, 2), (3,), (3,)],
    ),
    "gcn": dict(num_parameters=23_063, shape=(6,), small=_SMALL_GRAPH, num_features=5, intermediates={"hidden1": (5,)}),
    "graphsage": dict(
        num_parameters=46_103,
        shape=(6,),
        small=_SMALL_GRAPH,
        num_features=5,
        intermediates={"hidden1": (5,)},
        idle=("layer1/neighbours/kernel", "layer2/neighbours/kernel"),
    ),
    "gat": dict(
        num_parameters=92_373,
        shape=(6,),
        small={"features": (4,), "num_heads": 2, "num_classes": 3},
        num_features=8,
        intermediates={"hidden1": (8,)},
        idle=("attention1/receiver", "attention1/sender", "head/receiver", "head/sender"),
    ),
    "gin": dict(
        num_parameters=123_211,
        shape=(6,),
        small={"hidden_size": 5, "num_layers": 2, "num_classes": 3},
        num_features=10,
        intermediates={"hidden1": (5,), "hidden2": (5,)},
    ),
    "appnp": dict(
        num_parameters=92_231, shape=(6,), small=_SMALL_GRAPH, num_features=5, intermediates={"hidden1": (5,)}
    ),
    "gcnii": dict(
        num_parameters=354_375, shape=(6,), small={"hidden_size": 5, "num_layers": 2, "num_classes": 3}, num_features=5
    ),
    "graph_network": dict(
        num_parameters=23_575,
        shape=(6,),
        small={"hidden_size": 5, "num_layers": 2, "num_classes": 3},
        num_features=5,
        intermediates={"hidden1": (5,), "hidden2": (5,)},
    ),
    "graph_classifier": dict(
        num_parameters=30_470,
        shape=(4, 3),
        small={"network_options": {"hidden_size": 5, "num_layers": 2}, "readout": "attention", "num_classes": 3},
        num_features=10,
        intermediates={"network": {"hidden1": (4, 5), "hidden2": (4, 5)}},
    ),
}
