"""Recipes of neural differential equations."""

from typing import Any

from train.recipe import Recipe, recipe


def _ode_net(model: str, options: dict[str, Any]) -> Recipe:
    """Adam with one cycle and small shifts of the images; the same for the network with and without its ODE."""
    return Recipe(
        model=model,
        model_options=options,
        data="mnist",
        batch_size=128,
        epochs=6.0,
        learning_rate=4e-3,
        schedule="one_cycle",
        augmentation_options={"shift": 0.07},
        validation=5000,
        monitor="validation_loss",
    )


@recipe
def ode_mnist() -> Recipe:
    """ODE-Net on MNIST.
    """
    return _ode_net("ode_net", {"solver": "fixed_heun", "num_steps": 2})


@recipe
def ode_mnist_ablation() -> Recipe:
    """ODE-Net's network on MNIST without its ODE.
    """
    return _ode_net("ode_net_without_block", {})
