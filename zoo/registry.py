"""Models by name: a decorator enters them, `create_model` builds them, a card describes each one."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from zoo.options import check_options, unknown
from zoo.summary import abstract_variables, count_parameters

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
      paper: where the architecture comes from; empty where there is none.
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

_LOG = logging.getLogger(__name__)

_UNKNOWN = -1
"""The number of parameters of a card until somebody asks for it."""


def register(
    name: str,
    *,
    input_shape: tuple[int, ...],
    task: str = "classification",
    num_parameters: int | None = None,
    paper: str = "",
    weights_licence: str | None = None,
    input_dtype: str = "float32",
    **options: Any,
) -> Callable[[Builder], Builder]:
    """Decorator that enters a module class under `name`, with `options` as this variant's defaults.

        @zoo.register("mine", input_shape=(28, 28, 1))
        class Mine(nn.Module): …

    Args:
      name: what `create_model` will take.
      input_shape: of one example, without the batch axis.
      task: what it is trained for, a name of `train.tasks.TASKS`.
      num_parameters: how many there are, as a check: where it is given, another count is refused. Else it is computed
        when it is first asked for.
      paper: where the architecture comes from.
      weights_licence: of published weights.
      input_dtype: of an example, "int32" for tokens.
      options: fields of the class and their defaults under this name.

    Raises:
      ValueError: `name` is taken, the class has no such field, or the model has another number of parameters.
    """

    def enter(builder: Builder) -> Builder:
        if name in _builders:
            raise ValueError(f"a model named {name!r} is registered already; choose another name")
        defaults = {
            field: parameter.default
            for field, parameter in inspect.signature(builder).parameters.items()
            if field not in ("parent", "name")
        }
        for option in options:
            if option not in defaults:
                raise ValueError(unknown(f"field of {builder.__name__}, registered as {name!r}", option, defaults))
        settings = {**defaults, **options}
        count = _UNKNOWN if num_parameters is None else num_parameters
        entry = Card(name, task, tuple(input_shape), count, paper, settings, weights_licence, input_dtype)
        # Those of the zoo are held to their counts by its tests: to trace them all would take seconds at each start.
        whole = inspect.Parameter.empty not in settings.values()
        if num_parameters is not None and whole and not builder.__module__.startswith("zoo."):
            found = _count(builder, entry)
            if found != num_parameters:
                raise ValueError(
                    f"{name!r} has {found:,} parameters, not {num_parameters:,}: correct num_parameters or leave it out"
                )
        _builders[name], _cards[name] = builder, entry
        return builder

    return enter


def _count(builder: Callable[..., nn.Module], entry: Card) -> int:
    return count_parameters(abstract_variables(_build(builder, entry, {}), entry.example())["params"])


@functools.cache
def load_installed() -> None:
    """Imports what installed packages offer under the entry point group `flaxzoo`, once."""
    for entry in entry_points(group="flaxzoo"):
        try:
            entry.load()
        except Exception as error:  # another package's fault must not take the zoo down with it
            package = entry.dist.name if entry.dist else "a package"
            _LOG.warning("%s offers %s to flaxzoo, which cannot be imported: %s", package, entry.value, error)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell-style wildcard, sorted."""
    load_installed()
    return sorted(fnmatch.filter(_builders, pattern))


def model_card(name: str) -> Card:
    """The card of a registered model.

    Raises:
      ValueError: no model has this name; the nearest names are listed.
    """
    card = _card(name)
    if card.num_parameters == _UNKNOWN:
        card = _cards[name] = dataclasses.replace(card, num_parameters=_count(_builders[name], card))
    return card


def model_builder(name: str) -> Callable[..., nn.Module]:
    """The class that is registered under a name.

    Raises:
      ValueError: as `model_card`.
    """
    _card(name)
    return _builders[name]


def _card(name: str) -> Card:
    if name not in _cards:
        load_installed()
    if name not in _cards:
        raise ValueError(
            f"{unknown('model', name, _cards)}; one of your own is known once its module is imported (--import FILE.py)"
        )
    return _cards[name]


def create_model(name: str, /, **overrides: Any) -> nn.Module:
    """Builds a registered model; `overrides` replace the defaults of its card.

    A dtype may be given by name (`dtype="bfloat16"`).

    Raises:
      ValueError: no model has this name, or it has no such option (the nearest names are listed); or an option is of
        another type, or out of its range.
    """
    return _build(model_builder(name), _card(name), overrides)


def _build(builder: Callable[..., nn.Module], card: Card, overrides: dict[str, Any]) -> nn.Module:
    check_options(
        builder, overrides, f"model {card.name!r}", elsewhere={"name": "models are named by the first argument"}
    )
    settings = {**card.options, **overrides}
    missing = sorted(option for option, value in settings.items() if value is inspect.Parameter.empty)
    if missing:
        raise ValueError(f"model {card.name!r} needs a value for: {', '.join(missing)}")
    for option in ("dtype", "param_dtype"):
        if isinstance(settings.get(option), str):
            try:
                settings[option] = jnp.dtype(settings[option])
            except TypeError:
                raise ValueError(
                    f"{option} {settings[option]!r} does not exist; there are float32, bfloat16, float16 …"
                ) from None
    return builder(**{name: _hashable(value) for name, value in settings.items()})


def _hashable(value: Any) -> Any:
    """JSON and the command line know lists and dicts alone; a module must be hashable."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return FrozenDict({name: _hashable(each) for name, each in value.items()}) if isinstance(value, dict) else value
