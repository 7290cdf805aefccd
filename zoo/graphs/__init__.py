"""Networks on graphs: nodes with features, and edges between them."""

from zoo.graphs import appnp, gat, gcn, gcnii, gin, graph_classifier, graph_network, graphsage, message_passing
from zoo.graphs.sparse import SparseRows

__all__ = [
    "SparseRows",
    "appnp",
    "gat",
    "gcn",
    "gcnii",
    "gin",
    "graph_classifier",
    "graph_network",
    "graphsage",
    "message_passing",
]
