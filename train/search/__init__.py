"""Search: the settings of a recipe, or of any function, that give the best value.

`tune` trains recipes, each in a run folder; `search` calls a function of Python.
"""

try:
    import optuna as _  # noqa: F401
except ImportError:
    raise ImportError('a search needs Optuna 5: pip install "flaxzoo[tune]"') from None

from train.search.function import search as search
from train.search.tuning import tune as tune
