"""Networks on graphs: against dense sums, under permutation, with padding, and with what is no graph."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, random_variables
from zoo.graphs import message_passing
from zoo.graphs.graph_classifier import Readout
from zoo.graphs.message_passing import one_graph
from zoo.graphs.sparse import SparseRows

NETWORKS = ("gcn", "graphsage", "gat", "gin", "appnp", "gcnii", "graph_network")
every_network = pytest.mark.parametrize("name", NETWORKS)
NODES, INPUTS = 7, 6
X = np.random.default_rng(0).normal(size=(NODES, INPUTS)).astype(np.float32)
PAIRS = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (0, 5)], np.int32)  # node 6 is isolated
SENDERS, RECEIVERS = np.concatenate([PAIRS, PAIRS[:, ::-1]]).T


@functools.cache
def network(name):
    return zoo.create_model(name, **MODELS[name].small)


@functools.cache
def variables_of(name):
    return random_variables(network(name), X)


@functools.partial(jax.jit, static_argnums=0)
def run(model, variables, *graph):
    return model.apply(variables, *graph)


def adjacency(loops=0.0):
    a = np.zeros((NODES, NODES))
    np.add.at(a, (RECEIVERS, SENDERS), 1)
    return a + loops * np.eye(NODES)


def relu(x):
    return np.maximum(x, 0)


def smooth():
    a = adjacency(1.0)
    root = a.sum(axis=1) ** -0.5
    return root[:, None] * a * root


def dense_gcn(p):
    h = relu(smooth() @ X @ p["conv1"]["linear"]["kernel"] + p["conv1"]["bias"])
    return smooth() @ h @ p["conv2"]["linear"]["kernel"] + p["conv2"]["bias"]


def dense_graph_network(p):
    h = X @ p["stem"]["kernel"] + p["stem"]["bias"]
    for layer in ("layer1", "layer2"):
        h = relu(h @ p[layer]["kernel"] + adjacency() @ h)
    return h @ p["head"]["kernel"] + p["head"]["bias"]


def dense_appnp(p):
    h = relu(X @ p["dense1"]["kernel"] + p["dense1"]["bias"]) @ p["head"]["kernel"] + p["head"]["bias"]
    z = h
    for _ in range(10):
        z = 0.9 * smooth() @ z + 0.1 * h
    return z


def dense_gat(p):
    def layer(x, p, act):
        heads, there = [], adjacency(1.0) > 0
        w = p["linear"]["kernel"].reshape(x.shape[1], *p["sender"].shape)
        for k in range(w.shape[1]):
            h = x @ w[:, k]
            e = (h @ p["receiver"][k])[:, None] + (h @ p["sender"][k])[None]
            e = np.where(e > 0, e, 0.2 * e)
            e = np.where(there, np.exp(e - e.max()), 0)
            heads.append(e / e.sum(axis=1, keepdims=True) @ h)
        y = act(heads) + p["bias"]
        return y

    h = layer(X, p["attention1"], lambda heads: np.concatenate(heads, axis=1))
    return layer(np.where(h > 0, h, np.expm1(h)), p["head"], lambda heads: np.mean(heads, axis=0))


def dense_sage(p):
    a = adjacency()
    mean = a / np.maximum(a.sum(axis=1, keepdims=True), 1)
    h = X
    for n, act in (("layer1", relu), ("layer2", lambda x: x)):
        h = act(h @ p[n]["own"]["kernel"] + p[n]["own"]["bias"] + mean @ h @ p[n]["neighbours"]["kernel"])
    return h


DENSE = {
    "gcn": dense_gcn,
    "graph_network": dense_graph_network,
    "appnp": dense_appnp,
    "gat": dense_gat,
    "graphsage": dense_sage,
}


@pytest.mark.parametrize("name", DENSE)
def test_equals_a_dense_computation(name):
    found = run(network(name), variables_of(name), X, SENDERS, RECEIVERS)
    wanted = DENSE[name](jax.tree.map(lambda leaf: leaf.astype(np.float64), variables_of(name)["params"]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_gcn_aggregator_counts_the_node_itself():
    model = zoo.create_model("graphsage", hidden_sizes=(), num_classes=3, aggregator="gcn")
    variables = random_variables(model, X)
    p, a = variables["params"]["layer1"], adjacency(1.0)
    wanted = a / a.sum(axis=1, keepdims=True) @ X @ p["neighbours"]["kernel"] + p["bias"]
    np.testing.assert_allclose(model.apply(variables, X, SENDERS, RECEIVERS), wanted, rtol=1e-5, atol=1e-5)


@every_network
def test_nodes_may_be_numbered_otherwise(name):
    order = np.random.default_rng(1).permutation(NODES)
    place = np.argsort(order).astype(np.int32)
    model, variables = network(name), variables_of(name)
    wanted = run(model, variables, X, SENDERS, RECEIVERS)[order]
    shuffled = np.random.default_rng(2).permutation(len(SENDERS))
    found = run(model, variables, X[order], place[SENDERS][shuffled], place[RECEIVERS][shuffled])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@every_network
def test_padding_changes_nothing(name):
    """Not one bit: padding comes behind what there is, so that sums are taken in the same order."""
    model, variables = network(name), variables_of(name)
    more = np.concatenate([X, np.full((2, INPUTS), 7, np.float32)])
    none = np.full(5, NODES + 2, np.int32)
    edges = [np.concatenate([ends, none]) for ends in (SENDERS, RECEIVERS)]
    found = run(model, variables, more, *edges)[:NODES]
    wanted = run(model, variables, np.concatenate([X, np.zeros_like(more[:2])]), SENDERS, RECEIVERS)[:NODES]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(found, run(model, variables, X, SENDERS, RECEIVERS), rtol=1e-5, atol=1e-6)


@every_network
def test_many_graphs_are_each_by_itself(name):
    model, variables = network(name), variables_of(name)
    senders = np.stack([SENDERS, np.full_like(SENDERS, NODES)])
    receivers = np.stack([RECEIVERS, np.full_like(RECEIVERS, NODES)])
    found = run(model, variables, np.stack([X, 2 * X]), senders, receivers)
    np.testing.assert_allclose(found[0], run(model, variables, X, SENDERS, RECEIVERS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], run(model, variables, 2 * X), rtol=1e-5, atol=1e-6)
    node = np.array([3, 1], np.int32)
    np.testing.assert_array_equal(
        run(model, variables, np.stack([X, 2 * X]), senders, receivers, node), found[[0, 1], node]
    )


@every_network
def test_the_gradient_reaches_every_parameter(name):
    model, variables = network(name), variables_of(name)

    @jax.jit
    def gradients(params):
        def loss(params):
            rngs = {"dropout": jax.random.key(0)}
            given = {**variables, "params": params}
            y, _ = model.apply(given, X, SENDERS, RECEIVERS, train=True, rngs=rngs, mutable=["batch_stats"])
            return jnp.square(y - 1).sum()

        return jax.grad(loss)(params)

    found = gradients(variables["params"])
    chex.assert_tree_all_finite(found)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


@every_network
def test_a_loop_given_twice_or_not(name):
    """Of those that have their own loops. GraphSAGE, GIN and the guide's layer take a loop for an edge like others."""
    if name not in ("gcn", "gat", "appnp", "gcnii"):
        return
    loops = [np.concatenate([ends, [2, 2, 6]]).astype(np.int32) for ends in (SENDERS, RECEIVERS)]
    model, variables = network(name), variables_of(name)
    wanted = run(model, variables, X, SENDERS, RECEIVERS)
    np.testing.assert_allclose(run(model, variables, X, *loops), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gcn", "graphsage", "gin"])
def test_sparse_rows_are_the_dense_ones(name):
    rows = np.where(np.random.default_rng(3).random(X.shape) < 0.4, X, 0)
    columns = np.argsort(rows == 0, axis=1, kind="stable").astype(np.int32)
    sparse = SparseRows(columns, np.take_along_axis(rows, columns, axis=1), np.zeros((NODES, 0, INPUTS), np.float32))
    np.testing.assert_allclose(jax.tree.map(jnp.asarray, sparse).dense(), rows)
    model, variables = network(name), variables_of(name)
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tuple(sparse))
    found = run(model, variables, many)[1]
    np.testing.assert_allclose(found, run(model, variables, rows), rtol=1e-5, atol=1e-5)
    found = run(model, variables, tuple(sparse), SENDERS, RECEIVERS)
    np.testing.assert_allclose(found, run(model, variables, rows, SENDERS, RECEIVERS), rtol=1e-5, atol=1e-5)


def test_rows_that_are_also_listed_by_column():
    """Their product, its derivatives of two orders, and several at once are those of the dense matrix."""
    rows = np.array([[1, 0, 2, 0], [0, 0, 3, 0], [5, 4, 0, 0]], np.float32)
    columns = np.array([[0, 2], [2, 3], [1, 0]], np.int32)  # the entry in the column 3 is padding
    values = np.take_along_axis(rows, columns, axis=1)
    order, starts = np.array([0, 5, 4, 1, 2], np.int32), np.array([0, 2, 3, 5, 5], np.int32)
    listed = SparseRows(*map(jnp.asarray, (columns, values, np.zeros((3, 0, 4), np.float32), order, starts)))
    kernel = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)

    def functions(product):
        def loss(values, kernel):
            return jnp.sin(product(values, kernel)).sum()

        first = jax.grad(loss, (0, 1))
        second = jax.grad(lambda values, kernel: sum(jnp.square(g).sum() for g in first(values, kernel)), (0, 1))
        return jax.jit(lambda values, kernel: (product(values, kernel), first(values, kernel), second(values, kernel)))

    def dense(values, kernel):
        return jnp.zeros((3, 4)).at[jnp.arange(3)[:, None], columns].add(values) @ kernel

    sparse = functions(lambda values, kernel: listed._replace(values=values).product(kernel))
    (found, first, second), (y, d, dd) = (each(values, kernel[0]) for each in (sparse, functions(dense)))
    there = values != 0
    for a, b in zip((first[0], second[0]), (d[0], dd[0]), strict=True):
        np.testing.assert_allclose(a[there], b[there], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close((found, first[1], second[1]), (y, d[1], dd[1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(listed.product)(kernel), rows @ kernel, rtol=1e-5, atol=1e-5)


def test_padding_does_not_count_in_the_norm_of_gin():
    model, variables = network("gin"), variables_of("gin")

    def train(x, mask):
        return model.apply(
            variables,
            x,
            None,
            None,
            None,
            mask,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )[1]

    more = np.concatenate([X, np.full((3, INPUTS), 9, np.float32)])
    chex.assert_trees_all_close(train(more, np.arange(NODES + 3) < NODES), train(X, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sum", "mean", "max", "attention"])
def test_readouts(kind):
    x = np.random.default_rng(4).normal(size=(2, 4, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    module = Readout(kind)
    variables = module.init(jax.random.key(0), x, mask)
    found, there = module.apply(variables, np.where(mask[..., None], x, np.nan), mask), x[0, :3]
    wanted = {"sum": there.sum(axis=0), "mean": there.mean(axis=0), "max": there.max(axis=0)}
    if kind == "attention":
        weight = jax.nn.softmax(there @ variables["params"]["score"]["kernel"], axis=0)
        wanted["attention"] = (np.asarray(weight) * there).sum(axis=0)
    np.testing.assert_allclose(found[0], wanted[kind], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ([0, -1], [1, 2], r"senders name the node -1, and the nodes are 0 … 6 \(7 for an edge that is padding\)"),
        ([0, 1], [1, 9], "receivers name the node 9"),
        ([0.0, 1.0], [1, 2], "senders are numbers of nodes, integers; not float"),
        ([0, 1], [1], "each edge has a sender and a receiver"),
        ([[0, 1]], [[1, 2]], r"senders are \[edges\] for nodes \[7, 'features'\], not \[1, 2\]"),
        ([0, 1], None, "an edge has a sender and a receiver: give both"),
    ],
)
def test_what_is_no_graph_is_refused(senders, receivers, message):
    ends = [None if each is None else np.array(each) for each in (senders, receivers)]
    with pytest.raises(ValueError, match=message):
        network("gcn").apply(variables_of("gcn"), X, *ends)


def test_softmax_over_incoming_edges():
    scores = np.array([1.0, 2.0, 1000.0, 3.0], np.float32)
    found = message_passing.softmax_of_incoming(scores, np.array([0, 0, 1, 3]), 3)
    np.testing.assert_allclose(found[:3], [1 / (1 + np.e), np.e / (1 + np.e), 1], rtol=1e-6)
    assert np.isfinite(found).all()
    assert one_graph(X).senders is None
