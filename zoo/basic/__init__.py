"""Networks of dense layers."""

from zoo.basic import mlp, perceptron

__all__ = ["mlp", "perceptron"]
