"""Options are checked before anything is built of them: their names, types and ranges."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import typeguard


class Range(NamedTuple):
    """Numbers from `least` to `most`; an open end is left out."""

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int | float) or number != number:
            return False
        above = self.least < number if self.open_least else self.least <= number
        return above and (number < self.most if self.open_most else number <= self.most)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"greater than {self.least:g}" if self.open_least else f"at least {self.least:g}"
        return f"in {'(' if self.open_least else '['}{self.least:g}, {self.most:g}{')' if self.open_most else ']'}"


SHARE = Range(0, 1, open_most=True)
POSITIVE = Range(0, open_least=True)
COUNT = Range(1)
NOT_NEGATIVE = Range(0)

RANGES: dict[str, Range] = {
    **dict.fromkeys(
        (
            *(
                "features",
                "hidden_size",
                "hidden_sizes",
                "head_size",
                "head_dim",
                "latent_size",
                "mlp_dim",
                "num_heads",
            ),
            *("num_kv_heads", "num_layers", "num_blocks", "num_groups", "num_outputs", "num_segments", "vocab_size"),
            *("max_len", "patch_size", "stage_sizes", "growth_rate", "image_shape", "image_size", "upsample", "length"),
            *("size", "discriminator_features", "generator_features", "num_steps", "accumulate_steps", "decay_steps"),
            *("patience", "discriminator_steps", "inner_steps", "test_steps"),
        ),
        COUNT,
    ),
    **dict.fromkeys(("num_classes", "pad", "warmup_steps", "cooldown", "per_step_losses"), NOT_NEGATIVE),
    **dict.fromkeys(
        (
            "dropout_rate",
            "drop_path_rate",
            "spatial_dropout_rate",
            "token_dropout_rate",
            "ema_decay",
            "label_smoothing",
        ),
        SHARE,
    ),
    **dict.fromkeys(("b1", "b2", "b3", "decay", "rho", "momentum"), SHARE),
    **dict.fromkeys(
        ("weight_decay", "beta", "l2", "eps_root", "sam_rho", "min_lr", "threshold", "least_change"), NOT_NEGATIVE
    ),
    **dict.fromkeys(
        (
            "epsilon",
            "eps",
            "inner_rate",
            "width",
            "rotary_base",
            "clip_norm",
            "clip_value",
            "max_norm",
            "std",
            "init_std",
            "power",
        ),
        POSITIVE,
    ),
    **dict.fromkeys(("crop", "decay_factor", "factor", "final_fraction", "peak_at"), Range(0, 1)),
}
"""What an option of this name may be, whatever it belongs to."""


_MOST = float(np.finfo(np.float64).max)
"""Of a number that is finite; whole numbers of Python may be greater."""


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], what: str, *, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Refuses options that a function or class does not take.

    Args:
      function: takes the options as keyword arguments; its annotations say of which type they are.
      options: by name.
      what: they belong to, for the error, such as "model 'mlp'".
      elsewhere: parameters that are no options, and where they are set.

    Raises:
      ValueError: names the option, its value and what is expected.
    """
    elsewhere = elsewhere or {}
    known = {n: p for n, p in _parameters(function).items() if n not in elsewhere}
    for name, value in options.items():
        if name in elsewhere:
            raise ValueError(f"{name} is no option of {what}: {elsewhere[name]}")
        if name not in known:
            raise ValueError(unknown(f"option of {what}", name, known))
        hint, value = known[name], _plain(value)
        if not fits(value, hint):
            raise ValueError(f"{name} of {what} must be {in_words(hint)}, not {value!r}")
        allowed = RANGES.get(name)
        for number in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(number, int | float) and not -_MOST <= number <= _MOST:
                raise ValueError(f"{name} of {what} must be finite, not {value!r}")
            if allowed is not None and isinstance(number, int | float) and number not in allowed:
                raise ValueError(f"{name} of {what} must be {allowed}, not {value!r}")


def check_entries(found: Any, schema: Mapping[str, Any], where: str, *, required: Collection[str] = ()) -> None:
    """Refuses what a file holds, read from JSON, where it is not what its schema says.

    Args:
      found: the content of the file.
      schema: the types of its entries; others are left alone.
      where: the file, for the error.
      required: entries that must be there.

    Raises:
      ValueError: names file, entry and what is expected.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} holds no entries by name, but {type(found).__name__}")
    if missing := [name for name in required if name not in found]:
        raise ValueError(f"{where} lacks the entry {missing[0]!r}")
    for name, hint in schema.items():
        if name in found and not fits(found[name], hint):
            shown = repr(found[name])
            shown = f"{shown[:100]} …" if len(shown) > 100 else shown
            raise ValueError(f"{where}: its entry {name!r} must be {in_words(hint)}, not {shown}")


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


@functools.cache
def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each keyword argument; of those without an annotation that is known, what the default tells."""
    known: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "parent":
            continue
        known[name] = _hint(function, name, parameter)
    return known


def _hint(function: Any, name: str, parameter: inspect.Parameter) -> Any:
    try:
        hints = typing.get_type_hints(getattr(function, "func", function))
    except NameError:  # an annotation that only type checkers can resolve
        hints = {}
    if name in hints:
        kinds = _alternatives(hints[name])
        if float in kinds and len(kinds) > 2:  # what JAX takes for a number: arrays, scalars, schedules
            return float | None if type(None) in kinds else float
        return hints[name]
    default = parameter.default
    if isinstance(default, bool | str):
        return type(default)
    return float if isinstance(default, int | float) else Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; a list will do for a tuple, a whole number for a float, no boolean for a number."""
    if isinstance(value, bool) and bool not in _alternatives(hint) and Any not in _alternatives(hint):
        return False
    # JSON and the command line know lists alone.
    forms = (value, tuple(value)) if isinstance(value, list) else (value,)
    return any(_is_of(form, hint) for form in forms) and not (
        isinstance(value, list | tuple) and any(isinstance(item, bool) for item in value)
    )


def _is_of(value: Any, hint: Any) -> bool:
    try:
        # A named tuple's own fields may be annotated in words that are known in its module alone.
        typeguard.check_type(
            value,
            hint,
            forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
            collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
        )
    except typeguard.TypeCheckError:
        return False
    except TypeError:  # a type that cannot be checked at run time
        return True
    return True


def _alternatives(hint: Any) -> Collection[Any]:
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def in_words(hint: Any) -> str:
    """A type in the words of a user."""
    if typing.get_origin(hint) in (dict, Mapping):
        return "values by name"
    if hint in (int, float, bool, str, type(None)):
        return {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}.get(hint, "None")
    arguments = typing.get_args(hint)
    if len(_alternatives(hint)) > 1:
        return " or ".join(dict.fromkeys(map(in_words, arguments)))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, arguments))
    if arguments and typing.get_origin(hint) in (tuple, list, Sequence):
        inner = in_words(arguments[0]).removeprefix("a ")
        return f"a list of {inner}s"
    return getattr(hint, "__name__", str(hint))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: what it was, the nearest names, or all where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown {kind}: {name!r}; {hint}"
