"""Recipes of few-shot learning: each example is a task of its own (guide, section 13.2)."""

from train.recipe import Recipe, recipe

_TASK = {"loss": "mse", "inputs": "support_inputs"}
_MLP = {"hidden_sizes": [40, 40], "dropout_rate": 0.0, "num_classes": 1}


@recipe
def maml_sinusoid() -> Recipe:
    """MAML."""
    return Recipe(
        model="mlp",
        data="sinusoid",
        data_options={"shots": 10, "test_shots": 5, "episodes": 1_750_000},
        task="maml",
        task_options={**_TASK, "inner_rate": 0.01, "test_steps": 10},
        model_options=_MLP,
        batch_size=25,
        epochs=1.0,
        evaluate_every=5000,
        monitor="validation_loss",
    )


@recipe
def maml_omniglot() -> Recipe:
    """MAML."""
    return Recipe(
        model="conv4",
        data="omniglot",
        data_options={"ways": 5, "shots": 1, "queries": 15, "train_queries": 5},
        task="maml",
        task_options={"inner_rate": 0.4, "test_steps": 3},
        batch_size=32,
        learning_rate=3e-3,
        schedule="cosine",
        epochs=2.0,
        evaluate_every=500,
    )


@recipe
def protonet_omniglot() -> Recipe:
    """ProtoNet."""
    return Recipe(
        model="conv4_pool",
        data="omniglot",
        data_options={"ways": 5, "shots": 1, "queries": 15, "train_ways": 60, "train_shots": 1, "train_queries": 5, "episodes": 4000},
        task="prototypical",
        model_options={"num_classes": 0},
        batch_size=1,
        learning_rate=1e-3,
        schedule="cosine",
        epochs=1.0,
        evaluate_every=500,
    )
