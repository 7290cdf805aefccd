"""Models by name: a decorator enters them, `create_model` builds them, a card describes each one."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a registered model before it is built.

    Attributes:
      name: the name that `create_model` takes.
      task: the kind of task that it was designed for, such as "classification".
      input_shape: one example as the model takes it, without the batch axis (images are `[height, width, channels]`,
        tokens `[time]`).
      num_parameters: exact count of trainable parameters at the defaults and `input_shape`.
      paper: where the architecture comes from.
      options: the fields that `create_model` takes, with their defaults.
      weights_licence: the licence of published weights, or None when there are none.
      input_dtype: of an example: float32, or int32 for tokens.
    """

    name: str
    task: str
    input_shape: tuple[int, ...]
    num_parameters: int
    paper: str
    options: dict[str, Any]
    weights_licence: str | None = None
    input_dtype: str = "float32"

    def example(self, batch_size: int = 1) -> jax.Array:
        """A batch of zeros of `input_dtype`, `[batch_size, *input_shape]`."""
        return jnp.zeros((batch_size, *self.input_shape), self.input_dtype)


_builders: dict[str, Callable[..., nn.Module]] = {}
_cards: dict[str, Card] = {}


def register(
    name: str,
    *,
    task: str,
    input_shape: tuple[int, ...],
    num_parameters: int,
    paper: str,
    weights_licence: str | None = None,
    input_dtype: str = "float32",
    **options: Any,
) -> Callable[[Builder], Builder]:
    """Decorator that enters a module class under `name`, with `options` as this variant's defaults.

    Raises:
      ValueError: `name` is taken.
    """

    def enter(builder: Builder) -> Builder:
        if name in _builders:
            raise ValueError(f"a model named {name!r} is registered already; choose another name")
        defaults = {
            field: parameter.default
            for field, parameter in inspect.signature(builder).parameters.items()
            if field not in ("parent", "name")
        }
        _builders[name] = builder
        settings = {**defaults, **options}
        _cards[name] = Card(name, task, input_shape, num_parameters, paper, settings, weights_licence, input_dtype)
        return builder

    return enter


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell-style wildcard, sorted."""
    return sorted(fnmatch.filter(_builders, pattern))


def model_card(name: str) -> Card:
    """The card of a registered model.

    Raises:
      ValueError: no model has this name; the nearest names are listed.
    """
    if name not in _cards:
        raise ValueError(unknown("model", name, _cards))
    return _cards[name]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered model; `overrides` replace the defaults of its card.

    A dtype may be given by name (`dtype="bfloat16"`).

    Raises:
      ValueError: no model has this name, or it has no such option; the nearest names are listed.
    """
    card = model_card(name)
    for option in overrides:
        if option not in card.options:
            raise ValueError(unknown(f"option of model {name!r}", option, card.options))
    settings = {**card.options, **overrides}
    missing = sorted(option for option, value in settings.items() if value is inspect.Parameter.empty)
    if missing:
        raise ValueError(f"model {name!r} needs a value for: {', '.join(missing)}")
    for option in ("dtype", "param_dtype"):
        if isinstance(settings.get(option), str):
            try:
                settings[option] = jnp.dtype(settings[option])
            except TypeError:
                raise ValueError(
                    f"{option} {settings[option]!r} does not exist; there are float32, bfloat16, float16 …"
                ) from None
    # JSON and the command line know lists alone; a module must be hashable.
    return _builders[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: what it was, the nearest names, or all where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown {kind}: {name!r}; {hint}"
