"""The search of a cell for a recipe, by one of several methods with one budget, and what each of them finds.

The folder of a search holds `search.json` (what is searched), `trials.json` with a run folder for each trial in
`trials/`, or `supernet/`; then `genotype.json`, `cell.png`, `report.json`, and the run of the found network in
`found/`, for `zoo predict`, `zoo evaluate` and `zoo export`. A search that was interrupted goes on when it is
called again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import zoo
from train.architecture_search import pictures
from train.architecture_search.methods import SEARCHES, Architecture, Search, short_evolution
from train.architecture_search.space import SKIP, CellSpace, derive, num_skips
from train.architecture_search.supernet import Rates, train_supernet, weights_over_time
from train.files import as_json, read_json, require_writable, write_whole
from train.loop.checkpoints import History
from train.metrics import higher_is_better
from train.recipe import Recipe, load_data
from train.runs import run as runs
from train.runs.build import build
from train.search.evaluation import Candidate, one_by_one
from zoo.options import POSITIVE, unknown
from zoo.vision.cells import Genotype, read_genotype
from zoo.vision.darts import SMALL_SPACE


class Preset(NamedTuple):
    """A space, and the supernet in which it is searched by gradients."""

    space: CellSpace
    features: int
    num_cells: int
    rates: Rates


# A hundredth of the paper's steps: α moves faster.
_FAST = Rates(learning_rate=0.1, architecture_rate=1e-2)

PRESETS = {
    "darts": Preset(CellSpace(), 16, 8, Rates()),
    "small": Preset(CellSpace(SMALL_SPACE, 2), 8, 3, _FAST),
    # The choice of S2 (Zela et al. 2020), in a supernet so deep that it collapses to skip connections.
    "s2": Preset(CellSpace(("skip_connect", "sep_conv_3x3"), 2), 8, 8, _FAST),
}
"""By name."""

ORDERS = {"darts": 1, "darts2": 2}
"""Methods that train a supernet, with the order of their gradient."""

METHODS = (*SEARCHES, *ORDERS)

SEARCH, SKIPS, SKIPS_PICTURE = "search.json", "skips.json", "skips.png"

UNLIMITED = "without a limit"
"""What skip connections are counted by where none is taken out."""


def search(
    recipe: Recipe,
    folder: str | Path,
    *,
    method: str = "darts",
    budget: float = 40.0,
    trial_epochs: float = 4.0,
    space: str = "small",
    max_skips: int | None = 2,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Searches a genotype for a recipe, and trains the recipe with it.

    Args:
      recipe: how the network is trained that is found; its seed is that of the search. Its model is a `DARTS`.
      folder: of the search; made if it is not there.
      method: one of `METHODS`.
      budget: passes over the training data, of all networks together that the search trains.
      trial_epochs: how many of them each network of random search, evolution and REINFORCE takes.
      space: one of `PRESETS`.
      max_skips: the most skip connections in a normal cell that a supernet stands for, see `space.derive`.
      progress: whether to show bars.
      tell: is given a line after each trial.

    Returns:
      The report, as in `report.json`: the genotype, `architectures` tried, `search_seconds`, and what the found network
      reaches after the training that the recipe says.

    Raises:
      ValueError: something is wrong with the recipe, the budget or the folder, before anything is trained.
    """
    folder = Path(folder)
    recipe = _require(recipe, method, budget, trial_epochs, space, max_skips)
    _claim(folder, {"method": method, "budget": budget, "trial_epochs": trial_epochs, "space": space,
                    "max_skips": max_skips, "recipe": json.loads(recipe.to_json())})  # fmt: skip
    preset = PRESETS[space]
    if method in ORDERS:
        genotype, facts = _by_gradient(recipe, folder, preset, budget, ORDERS[method], max_skips, progress)
    else:
        trials = int(budget // trial_epochs)
        genotype, facts = _by_trials(recipe, folder, preset.space, method, trials, trial_epochs, tell)
    write_whole(folder / "genotype.json", json.dumps(genotype.plain()) + "\n")
    pictures.cells(genotype, folder / "cell.png", title=f"{folder.name}: {method}")
    found = folder / "found"
    trained = with_genotype(recipe, genotype)
    reached = runs.train(trained, found, resume=found.exists(), progress=progress)
    report = {"method": method, "budget": budget, "seed": recipe.seed, **facts, "genotype": genotype.plain(),
              "skips": num_skips(genotype.normal), "found": str(found), **reached}  # fmt: skip
    write_whole(folder / "report.json", as_json(report) + "\n")
    return report


def with_genotype(recipe: Recipe, genotype: Genotype) -> Recipe:
    """The recipe whose model has this genotype."""
    return replace(recipe, model_options={**recipe.model_options, "genotype": genotype.plain()})


def _require(
    recipe: Recipe, method: str, budget: float, trial_epochs: float, space: str, max_skips: int | None
) -> Recipe:
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if space not in PRESETS:
        raise ValueError(unknown("space", space, PRESETS))
    for name, value in (("budget", budget), ("trial_epochs", trial_epochs)):
        if value not in POSITIVE or value == float("inf"):
            raise ValueError(f"{name} must be {POSITIVE} passes over the training data, not {value}")
    if method in SEARCHES and budget < trial_epochs:
        raise ValueError(
            f"a budget of {budget:g} passes trains no network for {trial_epochs:g} (trial_epochs): give more, or train "
            "each for fewer"
        )
    if max_skips is not None and max_skips < 0:
        raise ValueError(f"max_skips must be at least 0, or None for no limit; not {max_skips}")
    if recipe.task != "classification" or "genotype" not in zoo.model_card(recipe.model).options:
        raise ValueError(
            f"a genotype is searched for a classifier with a genotype, such as mini_darts, not for {recipe.model!r} "
            f"with the task {recipe.task!r}"
        )
    recipe = replace(recipe, monitor=recipe.monitor or "validation_accuracy")
    read_genotype(recipe.model_options.get("genotype", "darts_v2"))
    build(recipe)
    return recipe


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    plan = json.loads(as_json(plan))
    if (folder / SEARCH).is_file():
        kept = read_json(folder / SEARCH, dict[str, Any])
        if changed := [f"{n}: {kept.get(n)} → {plan[n]}" for n in plan if kept.get(n) != plan[n]]:
            raise ValueError(
                f"{folder} holds another search; go on with what it is, or choose another folder with --run:\n  "
                + "\n  ".join(changed)
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no search of `zoo search`; choose another folder with --run")
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SEARCH, as_json(plan) + "\n")


def started(method: str, sizes: Sequence[int], seed: int, trials: int) -> Search:
    """A search by values, by name, for so many trials."""
    return (short_evolution(trials) if method == "evolution" else SEARCHES[method])(sizes, seed)


def _by_trials(
    recipe: Recipe, folder: Path, space: CellSpace, method: str, trials: int, epochs: float, tell: Callable[[str], None]
) -> tuple[Genotype, dict[str, Any]]:
    table: list[dict[str, Any]] = []
    if (folder / "trials.json").is_file():
        table = read_json(folder / "trials.json", list[dict[str, Any]])
    known: dict[Architecture, float] = {}
    short, evaluate = replace(recipe, epochs=epochs, patience=None), one_by_one()
    best = max if higher_is_better(recipe.monitor) else min
    sign = 1.0 if best is max else -1.0
    searching = started(method, space.sizes, recipe.seed, trials)
    architecture = next(searching)
    for number in range(trials):
        if number < len(table):
            row = table[number]
            if tuple(row["architecture"]) != architecture:
                raise ValueError(f"{folder / 'trials.json'}: trial {number} is not what this search draws")
        else:
            drawn = space.genotype(architecture)
            row = {"trial": number, "architecture": list(architecture), "genotype": drawn.plain()}
            if architecture in known:
                row |= {"value": known[architecture], "seconds": 0.0, "known": True}
            else:
                began = time.perf_counter()
                place = folder / "trials" / f"{number:04d}"
                candidate = Candidate(number, with_genotype(short, drawn), place)
                (outcome,) = evaluate([candidate], lambda number, history: False)
                if outcome.failure:
                    raise ValueError(f"trial {number} in {place} cannot be trained: {outcome.failure}")
                row |= {"value": best(_values(outcome.history, recipe.monitor)), "known": False}
                row["seconds"] = round(time.perf_counter() - began, 2)
            table.append(row)
            write_whole(folder / "trials.json", json.dumps(table) + "\n")
            tell(f"trial {number + 1} of {trials}: {recipe.monitor} {row['value']:.4f}")
        known[architecture] = row["value"]
        architecture = searching.send(sign * row["value"])
    chosen = best(table, key=lambda row: row["value"])
    facts = {
        "architectures": len(known),
        "search_seconds": round(sum(row["seconds"] for row in table), 1),
        "search_value": chosen["value"],
    }
    return read_genotype(chosen["genotype"]), facts


def _values(history: History, column: str) -> list[float]:
    return [row[column] for row in history if np.isfinite(row[column])] or [0.0]


def _by_gradient(
    recipe: Recipe, folder: Path, preset: Preset, epochs: float, order: int, max_skips: int | None, progress: bool
) -> tuple[Genotype, dict[str, Any]]:
    dataset = load_data(recipe)
    operations, num_nodes = preset.space
    options = {
        "operations": list(operations),
        "num_nodes": num_nodes,
        "num_classes": dataset.spec.num_classes,
        "features": preset.features,
        "num_cells": preset.num_cells,
    }
    place = folder / "supernet"
    history = train_supernet(
        zoo.create_model("darts_supernet", **options),
        dataset,
        place,
        meta={"model": "darts_supernet", "model_options": options},
        epochs=epochs,
        rates=preset.rates,
        order=order,
        seed=recipe.seed,
        progress=progress,
    )
    over_time = weights_over_time(place)
    normal = [derive(weights["normal"], operations) for _, weights in over_time]
    epoch_of = {row["step"]: row["epoch"] for row in history}
    counts = {UNLIMITED: [num_skips(edges) for edges in normal]}
    if max_skips is not None:
        limited = [derive(weights["normal"], operations, max_skips=max_skips) for _, weights in over_time]
        counts[f"at most {max_skips} (P-DARTS)"] = [num_skips(edges) for edges in limited]
    epochs_told = [epoch_of.get(step, float(index)) for index, (step, _) in enumerate(over_time)]
    share = [float(weights["normal"][:, list(operations).index(SKIP)].mean()) for _, weights in over_time]
    lines = {label: [values] for label, values in counts.items()}
    pictures.skips(epochs_told, lines, {"normal cell": [share]}, folder / SKIPS_PICTURE, edges=2 * num_nodes)
    write_whole(folder / SKIPS, as_json({"epoch": epochs_told, "share": share, **counts}) + "\n")
    _, last = over_time[-1]
    genotype = Genotype(derive(last["normal"], operations, max_skips=max_skips), derive(last["reduce"], operations))
    facts = {
        "architectures": 1,
        "search_seconds": round(history[-1]["seconds"], 1),
        "search_value": history[-1].get("validation_accuracy"),
        "skips_without_limit": counts[UNLIMITED][-1],
    }
    return genotype, facts


def compare(
    recipe: Recipe,
    folder: str | Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Searches with each method and each seed, random search always among them, and puts what they found side by side.

    Returns:
      What `compare.json` holds: a row for each method with mean and standard deviation over the seeds.

    Raises:
      ValueError: see `search`.
    """
    folder, methods = Path(folder), list(dict.fromkeys(["random", *methods]))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are different numbers, at least one; not {list(seeds)}")
    for method in methods:
        _require(recipe, method, options.get("budget", 40.0), options.get("trial_epochs", 4.0),
                 options.get("space", "small"), options.get("max_skips", 2))  # fmt: skip
    rows = []
    for method in methods:
        reports = []
        for seed in seeds:
            tell(f"{method}, seed {seed}")
            place = folder / f"{method}_seed{seed}"
            reports.append(search(replace(recipe, seed=seed), place, method=method, tell=tell, **options))
        rows.append({"method": method, **_summary(reports)})
    if gradient := [method for method in methods if method in ORDERS]:
        _draw_skips(folder, gradient, seeds, edges=2 * PRESETS[options.get("space", "small")].space.num_nodes)
    result = {"budget": options.get("budget", 40.0), "seeds": list(seeds), "methods": rows}
    write_whole(folder / "compare.json", as_json(result) + "\n")
    return result


def _draw_skips(folder: Path, methods: Sequence[str], seeds: Sequence[int], *, edges: int) -> None:
    """All supernets of a comparison in one picture."""
    told = {
        method: [read_json(folder / f"{method}_seed{seed}" / SKIPS, dict[str, Any]) for seed in seeds]
        for method in methods
    }
    counts, shares = (
        {method: [row[column] for row in rows] for method, rows in told.items()} for column in (UNLIMITED, "share")
    )
    pictures.skips(told[methods[0]][0]["epoch"], counts, shares, folder / SKIPS_PICTURE, edges=edges)


def _summary(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in ("test_accuracy", "validation_accuracy", "architectures", "search_seconds", "skips", "parameters"):
        values = [report[column] for report in reports if isinstance(report.get(column), int | float)]
        if values:
            row[column] = float(np.mean(values))
            row[f"{column}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return row
