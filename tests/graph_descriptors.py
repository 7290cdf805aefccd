"""The rows of `tests.descriptors` for networks on graphs, whose examples are nodes without edges.

With edges, see `tests.zoo.graphs`.
"""

from __future__ import annotations

from typing import Any

_SMALL_GRAPH = {"hidden_sizes": (5,), "num_classes": 3}

GRAPHS: dict[str, dict[str, Any]] = {
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
