"""The search over any function of Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.search.space import parse_space
from train.search.trials import SAMPLERS, Plan, Trials, open_study, rows
from train.settings import literal
from zoo.options import COUNT, unknown


def search(
    objective: Callable[[dict[str, Any]], float],
    settings: Sequence[str],
    *,
    trials: int,
    maximize: bool = False,
    sampler: str = "tpe",
    seed: int = 0,
    folder: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Looks for the settings that give the best value of a function.

        search(lambda s: (s["x"] - 1) ** 2, ["x=-3.0..3"], trials=50)

    Args:
      objective: from settings by name to a number. A trial whose number is not finite fails, and no others.
      settings: the space, see `train.search.space`.
      trials: how many trials the search has in the end.
      maximize: whether more is better.
      sampler: "tpe" or "random".
      seed: the same draws the same.
      folder: where the search is kept, if anywhere: with one, a search that was interrupted goes on.

    Returns:
      A row for each trial, see `train.search.trials.rows`.

    Raises:
      ValueError: the space or an argument is wrong, or the folder holds another search. What the function raises.
    """
    space, fixed = parse_space(settings)
    if not space.draws:
        raise ValueError("the space is empty: give a range or a choice, such as x=0.0..1")
    if sampler not in SAMPLERS:
        raise ValueError(unknown("sampler", sampler, SAMPLERS))
    if trials not in COUNT:
        raise ValueError(f"trials must be {COUNT}, not {trials}")
    shared = {name: literal(text) for name, _, text in (setting.partition("=") for setting in fixed)}
    where = None if folder is None else Path(folder)
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    plan = Plan(space, maximize, sampler, seed=seed, about={"fixed": shared})
    study = open_study(plan, "search", where)
    waiting = Trials(study, plan, trials, where)
    with waiting.working():
        while claimed := waiting.claim():
            for number, drawn in claimed:
                waiting.complete(number, float(objective({**shared, **drawn})))
    return rows(study, space)
