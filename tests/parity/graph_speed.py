"""The time of a train step of `gcn_cora` here and in other libraries, and of products with an adjacency matrix.

    python -m tests.parity.graph_speed

A step is the paper's: two layers of 16 units and 7 classes, dropout of .5 before both, Adam, an L2 penalty on the first
layer. PyTorch has a sparse adjacency and features that are sparse (dropout draws numbers for their entries alone), or
dense; PyTorch Geometric and Keras take features as they are given in their examples, dense. Products are a forward
pass and the gradient for the nodes, as segments, as BCSR and with a dense adjacency, by XLA and as the zoo's dense
layers are multiplied: of Cora, and of 50 small graphs with 25 nodes. Features of Cora times a kernel, and the gradient
for the kernel, are by lists of each row and each column, by those of each row alone, and dense.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from jax.experimental import sparse

import data
from train.launch import keep_memory
from train.recipe import get_recipe
from train.runs.build import build
from zoo.graphs.message_passing import Graph, neighbours, one_graph, smoothing
from zoo.graphs.sparse import SparseRows
from zoo.layers import product

TURNS, CALLS, AT_ONCE, HIDDEN, CLASSES = 8, 10, 10, 16, 7


def main() -> None:
    keep_memory()
    steps()
    for width in (16, 64):
        products_of_features(width)
    for width in (16, 64):
        products_of_cora(width)
    for width in (32, 128):
        products_of_small_graphs(width)


def steps() -> None:
    parts = build(get_recipe("gcn_cora"))
    source = parts.dataset.splits["train"]
    batch = parts.dataset.preprocess(source[np.arange(len(source))])
    nodes, senders, receivers = batch["nodes"], batch["senders"], batch["receivers"]
    x = np.asarray(jax.tree.map(jnp.asarray, SparseRows(*nodes)).dense())
    adjacency = np.asarray(smoothing(one_graph(x, senders, receivers))(jnp.eye(len(x))))
    label, train = np.asarray(batch["label"]), np.asarray(batch["node"])
    calls = {
        "zoo": zoo_steps(parts, batch, AT_ONCE),
        "zoo, a program a step": zoo_steps(parts, batch, 1),
        "PyTorch, sparse features": torch_step(x, adjacency, label, train, sparse_features=True),
        "PyTorch, dense features": torch_step(x, adjacency, label, train, sparse_features=False),
        "PyTorch Geometric": pyg_step(x, senders, receivers, label, train),
        "Keras, dense adjacency": keras_step(x, adjacency, label, train),
    }
    print("step of a GCN on Cora")
    told(calls, {"zoo": AT_ONCE})


def products_of_features(width: int) -> None:
    dataset = data.load("cora")
    rows = SparseRows(*jax.tree.map(jnp.asarray, dataset.preprocess(dataset.splits["train"][np.arange(1)])["nodes"]))
    whole = rows.dense()
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(whole.shape[1], width)), jnp.float32)
    ways: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
        "lists of rows and columns": SparseRows.product,
        "lists of rows": lambda rows, kernel: rows._replace(order=None, starts=None).product(kernel),
        "dense, XLA": lambda _, kernel: jnp.matmul(whole, kernel),
        "dense, as dense layers": lambda _, kernel: product.matmul(whole, kernel),
    }
    print(f"features of Cora times a kernel of {width} columns")
    told({name: with_gradient(way, rows, kernel) for name, way in ways.items()})


def with_gradient(way: Callable[[Any, jax.Array], jax.Array], rows: SparseRows, kernel: jax.Array) -> Callable[[], Any]:
    both = jax.jit(jax.value_and_grad(lambda kernel, rows: jnp.square(way(rows, kernel)).mean()))
    return lambda: jax.block_until_ready(both(kernel, rows))


def products_of_cora(width: int) -> None:
    batch = data.load("cora").splits["train"][np.arange(1)]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(len(batch["columns"]), width)), jnp.float32)
    print(f"product with the adjacency of Cora, {width} features")
    told(products(one_graph(x, batch["senders"], batch["receivers"]), x))


def products_of_small_graphs(width: int) -> None:
    batch = data.load("motifs", size=50).splits["train"][np.arange(50)]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*batch["node_mask"].shape, width)), jnp.float32)
    print(f"product with the adjacency of {x.shape[0]} graphs of {x.shape[1]} nodes, {width} features")
    told(batched_products(one_graph(x, batch["senders"], batch["receivers"]), x))


def told(calls: Mapping[str, Callable[[], Any]], steps: Mapping[str, int] | None = None) -> None:
    """Prints the median time of each, turn by turn, and the first one's share of it; a call may be several `steps`."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            for index in range(CALLS):  # the first ones share the cores with threads of the one before, which wait
                began = time.perf_counter()
                call()
                if index >= CALLS // 2:
                    seconds[name].append((time.perf_counter() - began) / (steps or {}).get(name, 1))
    first = statistics.median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"  {name:26} {1e3 * middle:8.3f} ms, the first one's time is {first / middle:.2f} of it", flush=True)


def zoo_steps(parts: Any, batch: Any, count: int) -> Callable[[], Any]:
    """Steps in one program, as `fit` has them from one evaluation to the next."""
    batch = jax.device_put(batch)
    held = [parts.task.init(jax.random.key(0), batch)]

    @partial(jax.jit, donate_argnums=0)
    def program(state: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda state, _: parts.task.train_step(state, batch), state, length=count)[0]

    def call() -> None:
        held[0] = jax.block_until_ready(program(held[0], batch))

    return call


def torch_step(
    x: np.ndarray, adjacency: np.ndarray, label: np.ndarray, train: np.ndarray, *, sparse_features: bool
) -> Callable[[], Any]:
    edges, given = torch.tensor(adjacency).to_sparse_csr(), torch.tensor(x)
    rows = given.to_sparse_csr()
    first, second = torch.nn.Linear(x.shape[1], HIDDEN, False), torch.nn.Linear(HIDDEN, CLASSES, False)
    biases = [torch.zeros(n, requires_grad=True) for n in (HIDDEN, CLASSES)]
    inner = [{"params": [first.weight, biases[0]], "weight_decay": 5e-4}]
    tx = torch.optim.Adam([*inner, {"params": [second.weight, biases[1]]}], 0.01)
    wanted, at = torch.tensor(label).long(), torch.tensor(train).long()

    def call() -> None:
        tx.zero_grad()
        if sparse_features:
            kept = F.dropout(rows.values(), 0.5)
            dropped = torch.sparse_csr_tensor(rows.crow_indices(), rows.col_indices(), kept, rows.shape)
            h = dropped @ first.weight.T
        else:
            h = F.dropout(given, 0.5) @ first.weight.T
        h = F.dropout(torch.relu(edges @ h + biases[0]), 0.5)
        logits = edges @ (h @ second.weight.T) + biases[1]
        F.cross_entropy(logits[at], wanted).backward()
        tx.step()

    return call


def pyg_step(x: np.ndarray, senders: Any, receivers: Any, label: np.ndarray, train: np.ndarray) -> Callable[[], Any]:
    edges, given = torch.tensor(np.stack([senders, receivers])).long(), torch.tensor(x)
    first, second = pyg.GCNConv(x.shape[1], HIDDEN, cached=True), pyg.GCNConv(HIDDEN, CLASSES, cached=True)
    inner = [{"params": first.parameters(), "weight_decay": 5e-4}]
    tx = torch.optim.Adam([*inner, {"params": second.parameters()}], 0.01)
    wanted, at = torch.tensor(label).long(), torch.tensor(train).long()

    def call() -> None:
        tx.zero_grad()
        h = F.dropout(torch.relu(first(F.dropout(given, 0.5), edges)), 0.5)
        F.cross_entropy(second(h, edges)[at], wanted).backward()
        tx.step()

    return call


def keras_step(x: np.ndarray, adjacency: np.ndarray, label: np.ndarray, train: np.ndarray) -> Callable[[], Any]:
    nodes, edges = keras.Input((len(x), x.shape[1])), keras.Input(adjacency.shape)
    l2 = keras.regularizers.L2(2.5e-4)
    h = keras.layers.Dense(HIDDEN, use_bias=False, kernel_regularizer=l2)(keras.layers.Dropout(0.5)(nodes))
    h = keras.layers.Dropout(0.5)(keras.layers.ReLU()(keras.layers.Dot((2, 1))([edges, h])))
    logits = keras.layers.Dot((2, 1))([edges, keras.layers.Dense(CLASSES, use_bias=False)(h)])
    model = keras.Model([nodes, edges], logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    labels, weight = np.zeros((1, len(x)), np.int32), np.zeros((1, len(x)), np.float32)
    labels[0, train], weight[0, train] = label, 1
    given = [jnp.asarray(array)[None] for array in (x, adjacency)]
    wanted = [jnp.asarray(array) for array in (labels, weight)]
    return lambda: model.train_on_batch(given, wanted[0], wanted[1])


Way = Callable[[jax.Array, Graph], jax.Array]
"""(what each node has, the graph) → what its neighbours have, in the same shape."""


def products(graph: Graph, x: jax.Array) -> dict[str, Callable[[], Any]]:
    """Ways to multiply with one adjacency matrix, which is always the same."""
    whole = neighbours(jnp.eye(graph.num_nodes), graph)
    rows = sparse.BCSR.fromdense(whole)
    ways: dict[str, Way] = {
        "segments": neighbours,
        "BCSR": lambda x, graph: rows @ x,
        "dense, XLA": lambda x, graph: jnp.matmul(whole, x),
        "dense, as dense layers": lambda x, graph: product.matmul(whole, x),
    }
    return {name: forward_and_back(way, x, graph) for name, way in ways.items()}


def batched_products(graph: Graph, x: jax.Array) -> dict[str, Callable[[], Any]]:
    """Ways to multiply with an adjacency matrix of each graph, which differ from batch to batch."""
    graphs, nodes, width = x.shape
    rows = sparse.BCSR.fromdense(neighbours(jnp.eye(graphs * nodes), graph))

    def blocks(graph: Graph) -> jax.Array:
        first = jnp.arange(graphs)[:, None] * nodes
        ends = [jnp.asarray(each).reshape(graphs, -1) - first for each in (graph.receivers, graph.senders)]
        which = jnp.broadcast_to(jnp.arange(graphs)[:, None], ends[0].shape)
        return jnp.zeros((graphs, nodes, nodes)).at[which, *ends].add(1, mode="drop")

    ways: dict[str, Way] = {
        "segments": lambda x, graph: neighbours(x.reshape(-1, width), graph).reshape(x.shape),
        "BCSR, made before": lambda x, graph: (rows @ x.reshape(-1, width)).reshape(x.shape),
        "dense, XLA": lambda x, graph: jnp.matmul(blocks(graph), x),
        "dense, as dense layers": lambda x, graph: product.matmul(blocks(graph), x),
    }
    return {name: forward_and_back(way, x, graph) for name, way in ways.items()}


def forward_and_back(way: Way, x: jax.Array, graph: Graph) -> Callable[[], Any]:
    @jax.jit
    @jax.value_and_grad
    def both(x: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        return jnp.square(way(x, graph._replace(senders=senders, receivers=receivers))).mean()

    return lambda: jax.block_until_ready(both(x, graph.senders, graph.receivers))


if __name__ == "__main__":
    main()
