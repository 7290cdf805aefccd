"""Tasks check their options before anything is built of them, in a recipe and in a program alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from train.state import Task
from zoo.options import check_options

Constructor = TypeVar("Constructor", bound=Callable[..., Task])


def checked(constructor: Constructor) -> Constructor:
    """Decorator of a task constructor: refuses keyword arguments of a wrong type, or out of their range.

    What it passes on to `gradient_task`, that checks itself.
    """
    own = set(constructor.__kwdefaults__ or {})

    @functools.wraps(constructor)
    def make(*arguments: Any, **options: Any) -> Task:
        given = {name: value for name, value in options.items() if name in own}
        check_options(constructor, given, f"task {constructor.__name__!r}")
        return constructor(*arguments, **options)

    return make  # type: ignore[return-value]
