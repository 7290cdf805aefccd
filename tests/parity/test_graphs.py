"""Networks on graphs against PyTorch Geometric, with random weights."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import zoo

pyg = pytest.importorskip("torch_geometric.nn", exc_type=ImportError)
torch = pytest.importorskip("torch")

NODES, INPUTS, CLASSES = 9, 6, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NODES, INPUTS)).astype(np.float32)
PAIRS = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (0, 6), (7, 0)])  # node 8 is isolated
EDGES = np.concatenate([PAIRS, PAIRS[:, ::-1]]).astype(np.int32)
SENDERS, RECEIVERS = EDGES.T
INDEX = torch.tensor(EDGES.T.astype(np.int64))


def random_like(variables):
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(structure, [rng.normal(0, 0.5, leaf.shape).astype(np.float32) for leaf in leaves])


def ours(name, **options):
    model = zoo.create_model(name, num_classes=CLASSES, **options)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), X, SENDERS, RECEIVERS))
    return variables["params"], np.asarray(model.apply(variables, X, SENDERS, RECEIVERS))


def load(layer, **tensors):
    """Sets the parameters of a layer by name."""
    state = layer.state_dict()
    assert set(tensors) == set(state), sorted(state)
    layer.load_state_dict({n: torch.tensor(np.asarray(t)).reshape(state[n].shape) for n, t in tensors.items()})
    return layer


def assert_same(found, wanted):
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_gcn():
    p, y = ours("gcn", hidden_sizes=[5])
    layers = [
        load(pyg.GCNConv(a, b), bias=p[n]["bias"], **{"lin.weight": p[n]["linear"]["kernel"].T})
        for n, a, b in (("conv1", INPUTS, 5), ("conv2", 5, CLASSES))
    ]
    assert_same(y, layers[1](torch.relu(layers[0](torch.tensor(X), INDEX)), INDEX))


def test_gat():
    p, y = ours("gat", features=[4], num_heads=2, num_output_heads=2)

    def layer(p, inputs, features, concat):
        tensors = {"lin.weight": p["linear"]["kernel"].T, "att_src": p["sender"], "att_dst": p["receiver"]}
        return load(pyg.GATConv(inputs, features, 2, concat=concat), bias=p["bias"], **tensors)

    h = torch.nn.functional.elu(layer(p["attention1"], INPUTS, 4, True)(torch.tensor(X), INDEX))
    assert_same(y, layer(p["head"], 8, CLASSES, False)(h, INDEX))


@pytest.mark.parametrize("aggregator", ["mean", "max"])
def test_graphsage(aggregator):
    p, y = ours("graphsage", hidden_sizes=[5], aggregator=aggregator)
    h = torch.tensor(X)
    for n, a, b in (("layer1", INPUTS, 5), ("layer2", 5, CLASSES)):
        tensors = {"lin_l.weight": p[n]["neighbours"]["kernel"].T, "lin_r.weight": p[n]["own"]["kernel"].T}
        layer = pyg.SAGEConv((b if aggregator == "max" else a, a), b, aggr=aggregator)
        layer = load(layer, **tensors, **{"lin_l.bias": p[n]["own"]["bias"]})
        sent = h
        if aggregator == "max":
            sent = torch.relu(h @ torch.tensor(p[n]["pool"]["kernel"]) + torch.tensor(p[n]["pool"]["bias"]))
        h = layer((sent, h), INDEX)
        h = torch.relu(h) if n == "layer1" else h
    assert_same(y, h)


def test_appnp():
    p, y = ours("appnp", hidden_sizes=[5], num_steps=4)
    h = torch.relu(torch.tensor(X @ p["dense1"]["kernel"] + p["dense1"]["bias"]))
    h = h @ torch.tensor(p["head"]["kernel"]) + torch.tensor(p["head"]["bias"])
    assert_same(y, pyg.APPNP(4, 0.1)(h, INDEX))


def test_gcnii():
    p, y = ours("gcnii", hidden_size=5, num_layers=3)
    h = first = torch.relu(torch.tensor(X @ p["stem"]["kernel"] + p["stem"]["bias"]))
    for index in range(3):
        layer = pyg.GCN2Conv(5, 0.1, 0.5, index + 1)
        load(layer, weight1=p["convs"]["linear"]["kernel"][index])
        h = torch.relu(layer(h, first, INDEX))
    assert_same(y, h @ torch.tensor(p["head"]["kernel"]) + torch.tensor(p["head"]["bias"]))


def test_gin():
    """In training, where batch norm takes the statistics of the nodes."""
    model = zoo.create_model("gin", hidden_size=5, num_layers=1, num_classes=0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, SENDERS, RECEIVERS)
    variables = random_like(shapes)
    p = variables["params"]
    y, _ = model.apply(variables, X, SENDERS, RECEIVERS, train=True, mutable=["batch_stats"])
    layers = []
    for i, inputs in ((1, INPUTS), (2, 5)):
        norm = torch.nn.BatchNorm1d(5)
        norm.weight.data, norm.bias.data = (torch.tensor(p[f"norm1_{i}"][n]) for n in ("scale", "bias"))
        layers += [
            load(torch.nn.Linear(inputs, 5, bias=False), weight=p[f"mlp1_{i}"]["kernel"].T),
            norm,
            torch.nn.ReLU(),
        ]
    layer = pyg.GINConv(torch.nn.Identity(), float(p["epsilon1"]))  # it would draw the weights of layers anew
    assert_same(y, torch.nn.Sequential(*layers)(layer(torch.tensor(X), INDEX)))
