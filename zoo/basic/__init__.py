"""Networks of dense layers."""

from zoo.basic import backpropagation, mlp, perceptron

__all__ = ["backpropagation", "mlp", "perceptron"]
