"""Freezing: parameters that a training leaves as they are, and what follows for the model around them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import optax
from flax.traverse_util import flatten_dict

Frozen = Callable[[str], bool]
"""Whether the parameter at a path, such as "stage1_block1/conv1/kernel", stays as it is."""


def path_of(key_path: Any) -> str:
    """The path of a leaf as JAX gives it, written with slashes."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def matches(path: str, pattern: str) -> bool:
    """Whether a wildcard such as "stage4_*" or "head" means the parameter at a path, or a module that it is in."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


class WildcardError(ValueError):
    """A wildcard over parameters matches none."""


def by_wildcard(patterns: Collection[str], what: str) -> Callable[[Any], Any]:
    """A function from parameters to a tree that holds for each the first of the patterns that means it; "" for none.

    Args:
      patterns: see `matches`.
      what: they belong to, for the error.

    Raises:
      WildcardError: when the function is called; a pattern matches no parameter.
    """

    def labels(params: Any) -> Any:
        def label(path: Any, _: Any) -> str:
            return next((pattern for pattern in patterns if matches(path_of(path), pattern)), "")

        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        if idle := [pattern for pattern in patterns if not any(matches(path, pattern) for path in paths)]:
            shown = ", ".join(paths[:_SHOWN]) + (f" … ({len(paths)})" if len(paths) > _SHOWN else "")
            raise WildcardError(f"{what}: {idle[0]!r} matches none of the trained parameters: {shown}")
        return jax.tree_util.tree_map_with_path(label, params)

    return labels


_SHOWN = 10
"""The most parameters that an error names."""


def freeze(tx: optax.GradientTransformation, frozen: Frozen) -> optax.GradientTransformation:
    """`tx` for the parameters that are not frozen. The others get no update, and no memory in its state.

    A task that is told of `frozen` too (see `train.tasks.step.gradient_task`) does not compute their gradients either.
    """

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if frozen(path_of(path)) else "trained", params
        )

    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def partition(tree: Any, frozen: Frozen) -> tuple[Any, Any]:
    """Trained and frozen leaves, each as a tree with None in the places of the others."""

    def only(wanted: bool) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if frozen(path_of(path)) == wanted else None, tree
        )

    return only(False), only(True)


def merge(trained: Any, kept: Any) -> Any:
    """The inverse of `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, kept, is_leaf=lambda leaf: leaf is None)


def in_inference(params: Any, frozen: Frozen) -> Callable[..., Any]:
    """An interceptor of Flax (`flax.linen.intercept_methods`) under which a wholly frozen module is not in training.

    A module all of whose parameters are frozen is called with `train=False`: its batch norms take their running
    statistics, and leave them as they are; its dropout lets everything pass.
    """
    trains: set[tuple[str, ...]] = set()
    every: set[tuple[str, ...]] = set()
    for path in flatten_dict(params):
        parents = {path[:depth] for depth in range(1, len(path))}
        every |= parents
        if not frozen("/".join(path)):
            trains |= parents

    def intercept(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if kwargs.get("train") and context.module.path in every - trains:
            kwargs = {**kwargs, "train": False}
        return next_call(*args, **kwargs)

    return intercept
