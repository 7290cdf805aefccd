"""Arguments that several commands take."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

Json = Annotated[bool, arg(help="print JSON instead of text")]
ModelOptions = Annotated[Positional[tuple[str, ...]], arg(metavar="OPTION=VALUE", help="options of the model")]
RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help="a folder that `zoo train` made")]


def model_options(settings: tuple[str, ...]) -> dict[str, Any]:
    """The options that the words OPTION=VALUE give.

    Raises:
      ValueError: a word has no `=`.
    """
    from train.recipe import literal

    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ValueError(f"an option has the form OPTION=VALUE, such as num_classes=10; not {wrong[0]!r}")
    return {option: literal(value) for option, _, value in (setting.partition("=") for setting in settings)}


def picture_file(out: Path) -> Path:
    """Where a picture is written: a PNG, whose ending may be left out.

    Raises:
      ValueError: the name has another ending.
    """
    if not out.suffix:
        return out.with_suffix(".png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG; {out} ends in {out.suffix}: leave the ending out")
    return out


def positionals_first(arguments: Sequence[str], command: Callable[..., None]) -> list[str]:
    """The words of a command line with those that belong to no option in front, in their order.

    So settings may stand before and behind options.
    """
    hints = typing.get_type_hints(command)
    flags = {f"--{name.replace('_', '-')}" for name in inspect.signature(command).parameters if hints[name] is bool}
    front, options, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            front.append(word)
            continue
        options.append(word)
        if word not in flags | {"-h", "--help"} and "=" not in word and words:
            options.append(words.pop(0))
    return [*front, *options]
