"""Tasks on graphs: a label for each node, a label for each graph, which pairs of nodes are linked."""

from train.tasks.graphs.graph_classification import graph_classification
from train.tasks.graphs.link_prediction import link_prediction
from train.tasks.graphs.node_classification import node_classification

__all__ = ["graph_classification", "link_prediction", "node_classification"]
