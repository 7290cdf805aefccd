"""Which code of a user's a run needs, and whether it is here and the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.registry import dataset_builder
from train.recipe import Recipe
from train.tasks import TASKS
from train.user_code import Code, source_of
from zoo.registry import list_models, model_builder

_LOG = logging.getLogger(__name__)


def sources(recipe: Recipe) -> list[Code]:
    """Where the model, the data set and the task of a recipe are defined, those of the zoo left out."""
    named = (f"model {recipe.model}", f"data set {recipe.data.partition(':')[0]}", f"task {recipe.task}")
    found = [(defines, _builder(defines)) for defines in named]
    codes = [source_of(builder, defines) for defines, builder in found if builder is not None]
    return [code for code in codes if code is not None]


def require_sources(folder: str | Path, meta: Mapping[str, Any]) -> None:
    """Refuses a run whose code is not imported, and warns where it has changed since.

    Args:
      folder: the run.
      meta: what a checkpoint says of its model.

    Raises:
      ValueError: names what is missing, and the file that defines it.
    """
    changed: dict[str, list[str]] = {}
    for fields in meta.get("code", ()):
        code = Code(**fields)
        builder = _builder(code.defines)
        if builder is None:
            gone = "" if Path(code.file).is_file() else ", which is not there any more"
            raise ValueError(
                f"the {_called(code)} of {folder} is defined in {code.file or code.module}{gone}: import it first "
                f"(--import {code.file or code.module} on the command line)"
            )
        now = source_of(builder, code.defines)
        if now is not None and now.sha256 != code.sha256:
            changed.setdefault(now.file or now.module, []).append(_called(code))
    for file, defines in changed.items():
        _LOG.warning(
            "%s, which defines the %s of %s, has changed since that was trained", file, " and ".join(defines), folder
        )


def _builder(defines: str) -> Callable[..., Any] | None:
    """What is registered as "model NAME", "data set NAME" or "task NAME"."""
    kind, _, name = defines.rpartition(" ")
    if kind == "task":
        return TASKS.get(name)
    if kind == "data set":
        return dataset_builder(name)
    return model_builder(name) if name in list_models() else None


def _called(code: Code) -> str:
    kind, _, name = code.defines.rpartition(" ")
    return f"{kind} {name!r}"
