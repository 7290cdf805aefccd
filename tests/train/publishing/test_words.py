"""What is said of a run: what it is good for, and by which figure it is known."""

from __future__ import annotations

import pytest

from train.publishing.cards import recipe_named
from train.publishing.headline import headline
from train.publishing.uses import examples, uses_of
from train.recipe import Recipe, get_recipe, list_recipes, override


@pytest.mark.parametrize(
    ("meta", "task", "uses"),
    [
        (
            {"data": {"fields": ["image", "label"], "classes": ["a"]}},
            "classification",
            ("evaluate", "predict", "export"),
        ),
        (
            {"data": {"fields": ["features", "target"], "classes": []}, "table": {}},
            "regression",
            ("evaluate", "predict"),
        ),
        ({"data": {"fields": ["inputs", "target"], "classes": []}}, "regression", ("evaluate",)),
        ({"data": {"fields": ["image"], "classes": []}}, "vae", ("evaluate", "sample")),
        ({"data": {"classes": ["a"]}}, "classification", ("evaluate",)),  # of an older version
        ({}, "language_modeling", ("evaluate", "generate")),
        ({"data": {"fields": ["support_image"], "classes": []}}, "maml", ("evaluate", "adapt")),
        ({"data": {"fields": ["support_inputs"], "classes": []}}, "maml", ("evaluate",)),
        ({"data": {"fields": ["nodes"], "classes": ["a"]}}, "node_classification", ("evaluate", "predict")),
    ],
)
def test_what_a_run_is_good_for(meta, task, uses):
    assert uses_of(Recipe(model="mlp", data="digits", task=task), meta) == uses


def test_examples_of_its_uses():
    lines = examples(get_recipe("transformer_dates"), {}, "mine")
    assert lines == ['zoo translate mine "3rd of March, 1998"']
    assert examples(get_recipe("mlp_table"), {"table": {}}, "mine") == ["zoo predict mine lines.csv"]


@pytest.mark.parametrize(
    ("name", "given"),
    [("gcn_cora", "0 17"), ("sage_cora_sampled", "0 17"), ("links_cora", "3-17"), ("gin_motifs", "graph.npz")],
)
def test_what_is_predicted_of_graphs(name, given):
    assert uses_of(get_recipe(name), {}) == ("evaluate", "predict")
    assert examples(get_recipe(name), {}, "mine") == [f"zoo predict mine {given}"]


@pytest.mark.parametrize(
    ("task", "report", "metric", "words"),
    [
        ("classification", {"test_accuracy": 0.98055, "test_loss": 0.1}, "test_accuracy", "98.06 %"),
        ("classification", {"validation_accuracy": 1.0}, "validation_accuracy", "100.00 %"),
        ("regression", {"test_loss": 1.5158, "test_mae": 1.0}, "test_loss", "squared error of 1.516"),
        ("vae", {"test_elbo": -24.26, "test_loss": 24.26}, "test_elbo", "ELBO of −24.26 nats"),
        ("seq2seq", {"test_exact_match": 0.9995, "test_accuracy": 0.5}, "test_exact_match", "99.95 % translated"),
        ("gan", {"test_loss": 1.35}, "test_loss", "loss of 1.3500"),
        ("link_prediction", {"test_auc": 0.906, "test_accuracy": 0.8}, "test_auc", "area under the ROC curve 0.906"),
    ],
)
def test_the_figure_that_matters(task, report, metric, words):
    found = headline(task, report)
    assert found is not None
    assert (found.metric, found.value) == (metric, report[metric])
    assert found.words.startswith(words)
    assert f"{found.split}_{found.name}" == metric


def test_a_report_without_figures():
    assert headline("classification", {"parameters": 3, "classes": {}}) is None


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_known_again(name):
    """Whatever its seed; with other settings it is none of them."""
    recipe = get_recipe(name)
    assert recipe_named(override(recipe, ["seed=7"])) == name
    assert recipe_named(override(recipe, ["epochs=77"])) == ""
