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


def adjacency(senders=SENDERS, receivers=RECEIVERS):
    """How many edges lead from each column to each row."""
    a = np.zeros((NODES, NODES))
    np.add.at(a, (receivers, senders), 1)
    return a


def relu(x):
    return np.maximum(x, 0)


def smooth(a):
    a = a * (1 - np.eye(NODES)) + np.eye(NODES)
    root = a.sum(axis=1) ** -0.5
    return root[:, None] * a * root


def norm(x, p, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["scale"] + p["bias"]


def dense_gcn(p, x, a, _):
    h = relu(smooth(a) @ x @ p["conv1"]["linear"]["kernel"] + p["conv1"]["bias"])
    return smooth(a) @ h @ p["conv2"]["linear"]["kernel"] + p["conv2"]["bias"]


def dense_graph_network(p, x, a, _):
    h = x @ p["stem"]["kernel"] + p["stem"]["bias"]
    for layer in ("layer1", "layer2"):
        h = relu(h @ p[layer]["kernel"] + a @ h)
    return h @ p["head"]["kernel"] + p["head"]["bias"]


def dense_appnp(p, x, a, _):
    h = relu(x @ p["dense1"]["kernel"] + p["dense1"]["bias"]) @ p["head"]["kernel"] + p["head"]["bias"]
    z = h
    for _ in range(10):
        z = 0.9 * smooth(a) @ z + 0.1 * h
    return z


def dense_gat(p, x, a, _):
    a = a * (1 - np.eye(NODES)) + np.eye(NODES)

    def layer(x, p, act):
        heads = []
        w = p["linear"]["kernel"].reshape(x.shape[1], *p["sender"].shape)
        for k in range(w.shape[1]):
            h = x @ w[:, k]
            e = (h @ p["receiver"][k])[:, None] + (h @ p["sender"][k])[None]
            e = np.where(e > 0, e, 0.2 * e)
            e = a * np.exp(e - e.max())
            heads.append(e / e.sum(axis=1, keepdims=True) @ h)
        return act(heads) + p["bias"]

    h = layer(x, p["attention1"], lambda heads: np.concatenate(heads, axis=1))
    return layer(np.where(h > 0, h, np.expm1(h)), p["head"], lambda heads: np.mean(heads, axis=0))


def dense_sage(p, x, a, _):
    mean = a / np.maximum(a.sum(axis=1, keepdims=True), 1)
    for n, act in (("layer1", relu), ("layer2", lambda x: x)):
        x = act(x @ p[n]["own"]["kernel"] + p[n]["own"]["bias"] + mean @ x @ p[n]["neighbours"]["kernel"])
    return x


def dense_gin(p, x, a, stats):
    seen = []
    for n in ("1", "2"):
        x = (1 + p[f"epsilon{n}"]) * x + a @ x
        for half in ("1", "2"):
            x = x @ p[f"mlp{n}_{half}"]["kernel"]
            x = relu(norm(x, p[f"norm{n}_{half}"], stats[f"norm{n}_{half}"]))
        seen.append(x)
    return np.concatenate(seen, axis=1) @ p["head"]["kernel"] + p["head"]["bias"]


def dense_gcnii(p, x, a, _):
    h = first = relu(x @ p["stem"]["kernel"] + p["stem"]["bias"])
    for index, kernel in enumerate(p["convs"]["linear"]["kernel"], start=1):
        share = np.log(0.5 / index + 1)
        mixed = 0.9 * smooth(a) @ h + 0.1 * first
        h = relu(share * mixed @ kernel + (1 - share) * mixed)
    return h @ p["head"]["kernel"] + p["head"]["bias"]


DENSE = dict(
    zip(
        NETWORKS,
        (dense_gcn, dense_sage, dense_gat, dense_gin, dense_appnp, dense_gcnii, dense_graph_network),
        strict=True,
    )
)

NONE = np.full(2, NODES, np.int32)
GRAPHS = {  # the last two edges are what is odd; in one program, as many graphs of one size
    "two edges of padding, a node without neighbours": (SENDERS, RECEIVERS, NONE, NONE),
    "no edges": (np.full_like(SENDERS, NODES), np.full_like(RECEIVERS, NODES), NONE, NONE),
    "one edge twice": (SENDERS, RECEIVERS, [4, 0], [0, 1]),
    "a loop twice": (SENDERS, RECEIVERS, [2, 2], [2, 2]),
    "a loop where there is nothing else": (SENDERS, RECEIVERS, [6, NODES], [6, NODES]),
    "one end is padding": (SENDERS, RECEIVERS, [0, NODES], [NODES, 3]),
}


@pytest.mark.slow
@every_network
def test_each_graph_is_its_dense_computation(name):
    """With gradients that are numbers."""
    model, variables = network(name), variables_of(name)
    senders, receivers = (
        np.stack([np.concatenate([g[i], g[2 + i]]) for g in GRAPHS.values()]).astype(np.int32) for i in (0, 1)
    )
    nodes = np.stack([(1 + k) / 2 * X for k in range(len(GRAPHS))])

    @jax.jit
    def outputs_and_gradients(variables, nodes, senders, receivers):
        def loss(params):
            found = model.apply({**variables, "params": params}, nodes, senders, receivers)
            return jnp.square(found).sum(), found

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, found = outputs_and_gradients(variables, nodes, senders, receivers)
    chex.assert_tree_all_finite(gradients)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(variables))
    for k, case in enumerate(GRAPHS):
        there = (senders[k] < NODES) & (receivers[k] < NODES)
        a = adjacency(senders[k][there], receivers[k][there])
        wanted = DENSE[name](exact["params"], nodes[k], a, exact.get("batch_stats"))
        np.testing.assert_allclose(found[k], wanted, rtol=1e-5, atol=2e-5, err_msg=case)

    # What is no number, or leads outside, where no error can tell it: the other graphs of the batch are as before.
    nodes[0, 3], senders[1, :2] = np.nan, [-1, NODES + 1]
    _, again = outputs_and_gradients(variables, nodes, senders, receivers)
    np.testing.assert_array_equal(again[1:], found[1:])
    reached = np.isnan(again[0]).any(axis=1)
    far = name == "appnp"  # ten steps lead to node 4, two do not
    np.testing.assert_array_equal(reached, [True, True, True, True, far, True, False])


@pytest.mark.slow
@every_network
def test_small_and_empty_graphs(name):
    """A graph of one node is what it is among others; of no graphs, or of no nodes, there is nothing to tell."""
    model, variables = network(name), variables_of(name)
    alone = run(model, variables, X[6:], [], [])
    np.testing.assert_allclose(alone, run(model, variables, X, SENDERS, RECEIVERS)[6:], rtol=1e-5, atol=1e-6)
    edges = np.zeros((0, 4), np.int32)
    for nodes, ends in ((X[:0], edges[:, 0]), (np.zeros((0, NODES, INPUTS), np.float32), edges)):
        found = jax.eval_shape(model.apply, variables, nodes, ends, ends)
        assert found.shape == (*nodes.shape[:-1], 3)


def test_the_gcn_aggregator_counts_the_node_itself():
    model = zoo.create_model("graphsage", hidden_sizes=(), num_classes=3, aggregator="gcn")
    variables = random_variables(model, X)
    p, a = variables["params"]["layer1"], adjacency() + np.eye(NODES)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    gradient = jax.grad(lambda x: module.apply(variables, x, mask).sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~mask], 0)
    assert module.apply(variables, x[:0], mask[:0]).shape == (0, 3)
    spoilt = module.apply(variables, np.where(x == x[0, 1, 0], np.nan, x)[::-1], mask[::-1])
    np.testing.assert_array_equal(np.isnan(spoilt).any(axis=1), [False, True])


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ([0, -1], [1, 2], r"senders name the node -1, and the nodes are 0 … 6 \(7 for an edge that is padding\)"),
        ([0, 1], [1, 9], "receivers name the node 9"),
        ([0.0, 1.0], [1, 2], "senders are numbers of nodes, integers; not float"),
        ([0, 1], [1], "each edge has a sender and a receiver"),
        ([[0, 1]], [[1, 2]], r"senders are \[edges\] for nodes \[7, 'features'\], not \[1, 2\]"),
        ([0, 1], None, "an edge has a sender and a receiver: give both"),
        ([True, False], [1, 2], "senders are numbers of nodes, integers; not bool"),
    ],
)
def test_what_is_no_graph_is_refused(senders, receivers, message):
    ends = [None if each is None else np.array(each) for each in (senders, receivers)]
    with pytest.raises(ValueError, match=message):
        network("gcn").apply(variables_of("gcn"), X, *ends)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_many_neighbours_in_half_precision(dtype):
    """As NumPy's in double precision, also the gradient of the one node that all of them see."""
    messages, hub = np.random.default_rng(0).uniform(1, 3, (3000, 1)).astype(dtype), np.zeros(3000, np.int32)
    wanted = messages.astype(np.float64)
    for how, found in (("mean", wanted.mean()), ("sum", wanted.sum())):
        np.testing.assert_allclose(message_passing.aggregate(messages, hub, 2, how)[0, 0], found, rtol=0.01)
    slope = jax.grad(lambda x: (message_passing.gather(x, hub) * (messages / 3000)).sum().astype(jnp.float32))
    np.testing.assert_allclose(slope(jnp.ones((2, 1), dtype))[0, 0], wanted.mean(), rtol=0.02)


@pytest.mark.parametrize("many", [False, True])
def test_a_node_that_there_is_not_is_no_number(many):
    graph = one_graph(np.stack([X] * 4) if many else X)
    found = np.asarray(graph.outputs(graph.nodes, np.array([0, -1, len(X), len(X) - 1])))
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(found[[0, 3]], X[[0, -1]])


def test_nodes_without_features_are_refused():
    with pytest.raises(ValueError, match="nodes have no features: give them at least one"):
        network("gcn").init(jax.random.key(0), X[:, :0], SENDERS, RECEIVERS)


def test_softmax_over_incoming_edges():
    scores = np.array([1.0, 2.0, 1000.0, 3.0], np.float32)
    found = message_passing.softmax_of_incoming(scores, np.array([0, 0, 1, 3]), 3)
    np.testing.assert_allclose(found[:3], [1 / (1 + np.e), np.e / (1 + np.e), 1], rtol=1e-6)
    assert np.isfinite(found).all()
    assert one_graph(X).senders is None
