"""Tasks on graphs under every plan, and what they learn."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest
from scipy.stats import mannwhitneyu

import data
import zoo
from data.graphs import graph_dataset
from data.graphs.graph import RawGraph
from train.loop import evaluate, fit, parallel
from train.tasks import graph_classification, link_prediction, node_classification

pytestmark = pytest.mark.slow


@functools.cache
def two_rings(**options):
    """Two rings of 16 nodes with chords, a class each; features are noise around a sign."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 16)
    ring = np.stack(
        [np.arange(32), np.concatenate([np.roll(np.arange(16), 1), 16 + np.roll(np.arange(16), 1)])], axis=1
    )
    chords = np.concatenate([rng.integers(0, 16, (20, 2)), 16 + rng.integers(0, 16, (20, 2))])
    edges = np.unique(np.sort(np.concatenate([ring, chords]), axis=1), axis=0)
    features = (2 * label - 1)[:, None] + 2 * rng.normal(size=(32, 4))
    order = rng.permutation(32)
    splits = {"train": order[:16], "validation": order[16:24], "test": order[24:]}
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()}
    return graph_dataset("two", RawGraph(features, edges, label, ("a", "b"), splits), normalize=False, **options)


INPUTS = ("nodes", "senders", "receivers", "node", "node_mask")


def cases():
    nodes = zoo.create_model("gcn", hidden_sizes=[8], num_classes=2, dropout_rate=0.0)
    sage = zoo.create_model("graphsage", hidden_sizes=[8], num_classes=2, dropout_rate=0.0)
    links = zoo.create_model("gcn", hidden_sizes=[8], num_classes=4, dropout_rate=0.0)
    gin = zoo.create_model("graph_classifier", network_options={"hidden_size": 8, "num_layers": 2}, dropout_rate=0.0)
    return {
        "nodes": (node_classification(nodes, optax.sgd(0.1)), two_rings()),
        "neighbourhoods": (
            node_classification(sage, optax.sgd(0.1), inputs=INPUTS),
            two_rings(fanouts=(3, 2), draws=2),
        ),
        "graphs": (graph_classification(gin, optax.sgd(0.01)), data.load("motifs", size=16, most_nodes=10)),
        "links": (link_prediction(links, optax.sgd(0.1)), two_rings(examples="links")),
    }


@pytest.mark.parametrize("kind", ["nodes", "neighbourhoods", "graphs"])
def test_the_plans_agree(kind):
    task, dataset = cases()[kind]
    states = [
        fit(task, dataset, batch_size=16, steps=3, plan=plan, validation=None).state
        for plan in (parallel.jit(jax.devices()[:1]), parallel.jit(), parallel.pmap(), parallel.fsdp(least_size=8))
    ]
    for state in states[1:]:
        for found, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(states[0].params), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_links_run_under_every_plan_and_tell_the_area_under_the_curve():
    task, dataset = cases()["links"]
    size = len(dataset.splits["train"]) // 8 * 8
    for plan in (parallel.jit(), parallel.pmap(), parallel.fsdp(least_size=8)):
        fitted = fit(task, dataset, batch_size=size, steps=2, plan=plan)
        assert np.isfinite(fitted.history[-1]["loss"])
    source, one = dataset.splits["test"], parallel.jit(jax.devices()[:1])
    found = evaluate(task, dataset, fitted.state, split="test", plan=one, batch_size=size)
    model = zoo.create_model("gcn", hidden_sizes=[8], num_classes=4, dropout_rate=0.0)
    batch = dataset.preprocess(source[np.arange(len(source))])
    z = np.asarray(model.apply(fitted.state.variables, batch["nodes"], batch["senders"], batch["receivers"]))
    yes, no = ((z[batch[name][:, 0]] * z[batch[name][:, 1]]).sum(axis=1) for name in ("pair", "negative"))
    assert found["auc"] == pytest.approx(mannwhitneyu(yes, no).statistic / (len(yes) * len(no)), abs=1e-6)
    assert found["accuracy"] == pytest.approx(((yes > 0).mean() + (no <= 0).mean()) / 2)


def test_the_best_state_of_a_graph_is_restored():
    # The first field of such a batch holds nodes, which are more than the examples.
    task, dataset = cases()["nodes"]
    options = {"batch_size": 16, "epochs": 6, "plan": parallel.jit(jax.devices()[:1])}
    fitted = fit(task, dataset, restore_best="validation_loss", **options)
    found = evaluate(task, dataset, fitted.state, split="validation", plan=options["plan"])["loss"]
    np.testing.assert_allclose(found, min(row["validation_loss"] for row in fitted.history), rtol=1e-6)


def test_neighbours_help():
    """The class is in the noise of a single node, and in the mean of its neighbours."""
    gcn = zoo.create_model("gcn", hidden_sizes=[8], num_classes=2, dropout_rate=0.0)
    one = parallel.jit(jax.devices()[:1])
    fitted = fit(node_classification(gcn, optax.adam(0.05)), two_rings(), batch_size=16, steps=40, plan=one)
    assert fitted.history[-1]["validation_accuracy"] == 1
