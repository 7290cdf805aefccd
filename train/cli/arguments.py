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
RunFolder = Annotated[
    Positional[Path],
    arg(metavar="RUN", help="a folder that `zoo train` made, a model of `zoo weights`, or USER/NAME on the hub"),
]


def model_options(settings: tuple[str, ...]) -> dict[str, Any]:
    """The options that the words OPTION=VALUE give.

    Raises:
      ValueError: a word has no `=`.
    """
    from train.settings import literal

    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ValueError(f"an option has the form OPTION=VALUE, such as num_classes=10; not {wrong[0]!r}")
    return {option: literal(value) for option, _, value in (setting.partition("=") for setting in settings)}


def picture_file(out: Path) -> Path:
    """Where a picture is written: a PNG, whose ending may be left out.

    Raises:
      ValueError: the name has another ending.
      OSError, ValueError: nothing can be written there.
    """
    from train.files import require_writable_file

    if out.suffix and out.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG; {out} ends in {out.suffix}: leave the ending out")
    out = out if out.suffix else out.with_suffix(".png")
    require_writable_file(out)
    return out


def positionals_first(arguments: Sequence[str], command: Callable[..., None]) -> list[str]:
    """The words of a command line with those that belong to no option in front, in their order.

    So settings may stand before and behind options. An option of files takes all words up to the next
    option, as a shell writes out a wildcard.

    Raises:
      ValueError: the command has no such option.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    hints = {f"--{name.replace('_', '-')}": hints[name] for name in inspect.signature(command).parameters}
    known = {name: hint for name, hint in hints.items() if Positional not in getattr(hint, "__metadata__", ())}
    flags = {name for name, hint in known.items() if typing.get_args(hint)[:1] == (bool,)} | {"-h", "--help"}
    files = {name for name, hint in known.items() if typing.get_args(hint)[:1] == (tuple[Path, ...],)}
    front, options, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            front.append(word)
            continue
        option, equals, value = word.partition("=")
        if option.replace("_", "-") not in {*known, *flags, "--import"}:
            from train.recipe import Recipe
            from zoo.options import unknown

            setting = f"{option.strip('-').replace('-', '_')}={value or (words or ['VALUE'])[0]}"
            advice = f"; a setting has no dashes: {setting}" if "--settings" in hints else ""
            if advice and setting.partition("=")[0] in Recipe.__dataclass_fields__:
                raise ValueError(f"unknown option: {option!r}{advice}")
            raise ValueError(unknown("option", option, {*known, "--import", "--help"}) + advice)
        if equals and option in flags:
            raise ValueError(f"{option} takes no value: it is there, or it is not")
        options.append(word)
        if option not in flags and not equals and words:
            options.append(words.pop(0))
        while option in files and words and not words[0].startswith("-"):
            options += [option, words.pop(0)]
    return [*front, *options]
