"""Search: the settings of a recipe, or of any function, that give the best value.

`tune` trains recipes, each in a run folder; `search` calls a function of Python; both need Optuna. `fit_population` in
`train.search.populations` trains many configurations at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.search.function import search as search
    from train.search.tuning import tune as tune


def __getattr__(name: str) -> Any:
    """Imports what needs Optuna where it is asked for."""
    if name not in ("search", "tune"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import optuna as _  # noqa: F401
    except ImportError:
        raise ImportError('a search needs Optuna 5: pip install "flaxzoo[tune]"') from None
    from train.search import function, tuning

    return function.search if name == "search" else tuning.tune
