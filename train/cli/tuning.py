"""The command tune."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json


def tune(
    recipe: Annotated[
        Positional[str], arg(metavar="RECIPE", help="a recipe of `zoo recipes`, my_recipe.py, or my_module:name")
    ],
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="NAME=VALUE",
            help="what is searched: a range LOW..HIGH, log:LOW..HIGH or LOW..HIGH:STEP; a choice A,B,C; a list with "
            "ranges inside [16..64:16,32..128]; a list of one to four draws [32..512:32]*1..4. A single value changes "
            "the recipe for all trials. For an MLP the guide's space where there is none",
        ),
    ] = (),
    trials: Annotated[int, arg(help="how many the study has in the end; the same command goes on to them")] = 30,
    space: Annotated[Path | None, arg(help="a file of settings, one a line; those of the command line override it")] = (
        None
    ),
    metric: Annotated[
        str | None, arg(help="what to search for, a column of history.csv; what the recipe monitors by default")
    ] = None,
    sampler: Annotated[Literal["tpe", "random"], arg(help="how settings are drawn")] = "tpe",
    pruner: Annotated[
        Literal["hyperband", "halving", "none"],
        arg(help="how trials are ended early: those that are not among the best third after 1, 3, 9 … evaluations"),
    ] = "hyperband",
    seed: Annotated[int, arg(help="one worker draws the same trials by the same seed")] = 0,
    timeout: Annotated[float | None, arg(help="seconds after which training stops; the same command goes on")] = None,
    workers: Annotated[int, arg(help="processes that train, on this machine")] = 1,
    population: Annotated[
        int,
        arg(
            help="configurations that are drawn and trained at once. Those that differ in numbers alone, such as "
            "learning rate, dropout rate and weight decay, become one compiled program"
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        arg(
            metavar="URL",
            help="a database for several machines, such as postgresql+psycopg://user@host/name; each is given the "
            "same command. By default a file in the folder",
        ),
    ] = None,
    run: Annotated[Path | None, arg(help="folder of the study, whose name it has; runs/tune_RECIPE by default")] = None,
    json: Json = False,
) -> None:
    """Search the settings of a recipe that give the best metric. Each trial is a run; the best is evaluated.

    A study that was interrupted, also by force, goes on when the command is given again.
    """
    if workers > 1:  # before JAX is imported: by default each process would take most of a GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import train.recipes  # noqa: F401
    from train.recipe import get_recipe, recipe_name
    from train.search import tune as search
    from train.search.at_once import at_once
    from train.search.evaluation import one_by_one
    from train.search.space import read_settings
    from train.search.tuning import InterruptedSearch

    if "=" in recipe:
        raise ValueError(f"the recipe comes first: zoo tune RECIPE {recipe}")
    name = recipe_name(recipe)
    try:
        report = search(
            get_recipe(name),
            run or Path("runs") / f"tune_{name}",
            [*([] if space is None else read_settings(space)), *settings],
            trials=trials,
            metric=metric,
            sampler=sampler,
            pruner=pruner,
            seed=seed,
            timeout=timeout,
            workers=workers,
            storage=storage,
            evaluator=at_once if population > 1 else one_by_one,
            population=population,
            progress=not json,
        )
    except InterruptedSearch as interruption:  # by SIGTERM: what was asked for is done
        if json:
            return console.print_json({"interrupted": str(interruption)})
        return print(f"{interruption}; the same command goes on with it")
    if json:
        return console.print_json(report)
    table = [{**row, "value": _value(row["value"]), "settings": _words(row["settings"])} for row in report["table"]]
    console.print_table(table, ("trial", "state", "value", "evaluations", "settings"))
    best = report["best"]
    print(f"\nbest: trial {best['trial']}, {report['metric']} {best['value']:.6g}, {_words(best['settings'])}")
    if "report" in best:
        tested = {n: v for n, v in best["report"].items() if n.startswith("test_") and isinstance(v, float)}
        print("".join(f"      {n} {v:.6g}\n" for n, v in tested.items()), end="")
        print(f"kept in {best['run']}, for `zoo evaluate`; the study, with tables and pictures, in {report['study']}")


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _words(settings: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())
