"""What runs on graphs say of nodes, links and graphs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import data
from train.cli import main
from train.inference import predict
from train.inference.loading import load
from train.recipe import Recipe
from train.runs.run import train

pytestmark = pytest.mark.slow

SMALL = {"hidden_sizes": [4], "dropout_rate": 0.0}


def _recipe(**fields):
    return Recipe(epochs=1.0, learning_rate=0.05, validation=0, monitor="loss", **fields)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each task, on a graph of two rings or on motifs."""
    root = tmp_path_factory.mktemp("graphs")
    rng = np.random.default_rng(0)
    ring = np.concatenate([np.stack([np.arange(8), (np.arange(8) + step) % 8], axis=1) for step in (1, 2)])
    nodes, label = rng.normal(size=(16, 3)).astype(np.float32), np.repeat([0, 1], 8)
    edges = np.concatenate([ring, ring + 8, [[0, 4], [9, 13]]])
    np.savez(root / "rings.npz", nodes=nodes, edges=edges, label=label)
    (root / "named").mkdir()
    rows = [f"n-{i},{','.join(map(str, nodes[i]))},{label[i]}" for i in range(16)]
    (root / "named" / "nodes.csv").write_text("\n".join(["id,x,y,z,label", *rows]))
    (root / "named" / "edges.csv").write_text("\n".join(["source,target", *(f"n-{a},n-{b}" for a, b in edges)]))
    rings = {"data": f"graph:{root / 'rings.npz'}", "batch_size": 8}
    padded = {"inputs": ["nodes", "senders", "receivers", "node", "node_mask"]}
    recipes = {
        "nodes": _recipe(model="gcn", task="node_classification", model_options=SMALL, **rings),
        "trees": _recipe(
            model="graphsage",
            task="node_classification",
            task_options=padded,
            model_options=SMALL,
            data_options={"fanouts": [9, 9], "draws": 1},
            **rings,
        ),
        "links": _recipe(
            model="gcn",
            task="link_prediction",
            model_options={**SMALL, "num_classes": 4},
            data_options={"examples": "links"},
            **{**rings, "data": f"graph:{root / 'named'}"},
        ),
        "graphs": _recipe(
            model="graph_classifier",
            task="graph_classification",
            model_options={"network": "gin", "network_options": {"hidden_size": 4}},
            data="motifs",
            data_options={"size": 8, "most_nodes": 10},
            batch_size=8,
        ),
    }
    for name, recipe in recipes.items():
        train(recipe, root / name, progress=False)
    return root


def test_nodes_are_told_by_the_whole_graph(runs):
    run = load(runs / "nodes")
    batch = run.dataset.splits["train"][np.arange(1)]
    graph = batch["nodes"], batch["senders"], batch["receivers"]
    logits = run.model.apply(run.variables, *graph, np.array([11, 2]))
    found = predict(runs / "nodes", ["11", "2"])
    assert [each.file for each in found] == ["node 11", "node 2"]
    for each, wanted in zip(found, jax.nn.softmax(logits), strict=True):
        np.testing.assert_allclose(list(each.probabilities.values()), wanted, rtol=1e-5)


def test_neighbourhoods_that_are_whole_say_what_the_graph_says(runs):
    run = load(runs / "trees")
    whole = data.load(run.recipe.data).splits["train"][np.arange(1)]
    graph = whole["nodes"], whole["senders"], whole["receivers"]
    logits = run.model.apply(run.variables, *graph, np.array([15, 0, 15]))
    for each, wanted in zip(predict(runs / "trees", ["15", "0", "15"]), jax.nn.softmax(logits), strict=True):
        np.testing.assert_allclose(list(each.probabilities.values()), wanted, rtol=1e-5)


def test_links_are_probable_by_the_product_of_their_ends(runs):
    run = load(runs / "links")
    batch = run.dataset.splits["train"][np.arange(1)]
    z = run.model.apply(run.variables, batch["nodes"], batch["senders"], batch["receivers"])
    found = predict(runs / "links", ["n-3-n-12", "n-0-n-1"])
    for each, (a, b) in zip(found, [(3, 12), (0, 1)], strict=True):
        assert each.file == f"n-{a}-n-{b}"
        assert each.probabilities["linked"] == pytest.approx(float(jax.nn.sigmoid(z[a] @ z[b])), rel=1e-5)
        assert each.label == max(each.probabilities, key=lambda name: each.probabilities[name])


def test_graphs_of_other_sizes_are_told_from_files(runs, tmp_path):
    run = load(runs / "graphs")
    split = run.dataset.splits["test"]
    batch = split[np.arange(2)]
    inputs = [batch[name] for name in ("nodes", "senders", "receivers", "node_mask")]
    logits = run.model.apply(run.variables, *inputs)
    files = []
    for row in range(2):
        there = batch["senders"][row] < 10
        edges = np.stack([batch["senders"][row][there], batch["receivers"][row][there]], axis=1)
        files.append(tmp_path / f"{row}.npz")
        np.savez(files[-1], nodes=batch["nodes"][row][batch["node_mask"][row]], edges=edges)
    lone = tmp_path / "lone.npz"
    np.savez(lone, nodes=np.ones((25, 1), np.float32), edges=np.zeros((0, 2), np.int64))
    found = predict(runs / "graphs", [*files, lone])
    for each, wanted in zip(found[:2], jax.nn.softmax(logits), strict=True):
        np.testing.assert_allclose(list(each.probabilities.values()), wanted, rtol=1e-4)
    assert np.isfinite(list(found[2].probabilities.values())).all()


@pytest.mark.parametrize(
    ("run", "given", "message"),
    [
        ("nodes", "16", r"'16' is no node of .*0 … 15"),
        ("nodes", "-1", "'-1' is no node"),
        ("trees", "x", "'x' is no node"),
        ("links", "3", "'3' is no pair of nodes"),
        ("links", "n-3-n-16", "'n' is no node of .*: they are those of the column id, such as 'n-0'"),
        ("graphs", "rings.npz", "nodes have 3 features, and those of this run have 1"),
        ("graphs", "no.npz", "no.npz"),
    ],
)
def test_what_is_not_there_is_refused(runs, run, given, message, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict(run, [given])


def test_the_command_line_tells_links(runs, capsys):
    main(["predict", str(runs / "links"), "n-0-n-1", "--top", "2"])
    out = capsys.readouterr().out
    assert out.startswith("n-0-n-1: ")
    assert "not linked (" in out
