"""Arguments that several commands take."""

from __future__ import annotations

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
