"""What a model is made of: layers, parameters, operations. Nothing here computes with real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np


class Layer(NamedTuple):
    """One module of a model: where it is, what it is, its output shape and its own parameters."""

    path: str
    kind: str
    output_shape: tuple[int, ...]
    num_parameters: int


def count_parameters(params: Any) -> int:
    """Number of scalars in a pytree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def abstract_variables(model: nn.Module, x: Any) -> dict[str, Any]:
    """Shapes and dtypes of what `model.init` returns, without computing it; a tuple stands for several inputs."""
    return jax.eval_shape(model.init, jax.random.key(0), *(x if type(x) is tuple else (x,)))


def layers(model: nn.Module, x: Any) -> list[Layer]:
    """The modules of `model` in the order in which they are called on `x`, children before what they make up.

    One that is called several times, as the field of a differential equation is, stands where it is called first.
    """
    kinds: dict[tuple[str, ...], tuple[str, tuple[int, ...]]] = {}

    def note(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y = next_call(*args, **kwargs)
        outputs = [leaf for leaf in jax.tree.leaves(y) if isinstance(leaf, jax.Array)]
        if context.method_name == "__call__" and outputs:
            kinds.setdefault(context.module.path, (type(context.module).__name__, outputs[0].shape))
        return y

    def init(key: jax.Array, x: Any) -> Any:
        with nn.intercept_methods(note):
            return model.init(key, x)

    params = jax.eval_shape(init, jax.random.key(0), x).get("params", {})
    return [
        Layer("/".join(path), kind, shape, count_parameters(_at(params, path))) for path, (kind, shape) in kinds.items()
    ]


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree


def flops(model: nn.Module, x: Any) -> int:
    """Floating-point operations of one inference on `x`, as XLA counts them (a multiply-add is two)."""
    return count_flops(model.apply, abstract_variables(model, x), x)


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of `function(*args)`, as XLA counts them. Of the arguments only the shapes matter."""
    # For a CPU, convolutions become library calls, whose operations XLA does not count.
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))
    return int((lowered.cost_analysis() or {}).get("flops", 0))
