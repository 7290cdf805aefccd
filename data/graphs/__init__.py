"""Graphs: one with labels on its nodes, or many with a label each."""

from data.graphs import folder, graph, planetoid, sampling, synthetic
from data.graphs.folder import read_graph
from data.graphs.graph import graph_dataset

__all__ = ["folder", "graph", "graph_dataset", "planetoid", "read_graph", "sampling", "synthetic"]
