"""Comparisons: variants of one recipe, each trained in a run folder of its own, and what they reached side by side.

The folder of a comparison holds a run folder for each variant and seed, `compare.png`, `compare.csv` and
`compare.json`. The same call again takes what is finished as it is, and goes on with what is not.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zoo
from train.files import as_json, write_whole
from train.inference.evaluation import examine
from train.inference.loading import Run, read_recipe
from train.loop.callbacks import read_history
from train.loop.checkpoints import History, finished_steps
from train.loop.fitting import DivergedError
from train.measure import pictures
from train.metrics import higher_is_better
from train.recipe import Recipe, differences, load_data, load_recipes, override
from train.runs import run as runs
from train.runs.build import build
from train.runs.transfer import resolve, with_absolute_paths
from train.settings import literal, parts_of
from zoo.checkpoint import CHECKPOINTS
from zoo.options import unknown

_LOG = logging.getLogger(__name__)

Variants = Mapping[str, Sequence[str]]
"""By what each is called, its settings `NAME=VALUE`."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Variants of one recipe, as plain data.

    Attributes:
      recipe: its name.
      variants: their settings, by what they are called.
      settings: of all of them.
      metric: what is drawn and told; by default accuracy where there is one, else the loss.
    """

    recipe: str
    variants: Variants
    settings: Sequence[str] = ()
    metric: str = ""


_comparisons: dict[str, Callable[[], Comparison]] = {}


def comparison(function: Callable[[], Comparison]) -> Callable[[], Comparison]:
    """Decorator that enters a comparison under the name of its function; its docstring says what it showed.

    Raises:
      ValueError: the name is taken.
    """
    if function.__name__ in _comparisons:
        raise ValueError(f"a comparison named {function.__name__!r} exists already; choose another name")
    _comparisons[function.__name__] = function
    return function


def list_comparisons() -> list[str]:
    """Names of all comparisons, sorted."""
    load_recipes()
    return sorted(_comparisons)


def get_comparison(name: str) -> Comparison:
    """A comparison by name.

    Raises:
      ValueError: there is none; the nearest are listed.
    """
    load_recipes()
    if name not in _comparisons:
        raise ValueError(unknown("comparison", name, _comparisons))
    return _comparisons[name]()


def variants_of(settings: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Settings that are the same for all, and each combination of those with several values, such as `seed=0,1`.

    A comma within brackets or quotes does not part values: `model_options.hidden_sizes=[64],[64,64]` has two.

    Returns:
      The first, and the second by what tells them apart; there is one, called "", where no setting has several.

    Raises:
      ValueError: a value is empty, or stands there twice.
    """
    same, several = [], []
    for setting in settings:
        name, equals, text = setting.partition("=")
        values = parts_of(text) if equals else [text]
        if len(values) < 2:
            same.append(setting)
            continue
        if not all(values) or len(set(values)) < len(values):
            raise ValueError(f"a value of {name} is empty, or stands there twice: {setting!r}")
        several.append([(name, value) for value in values])
    variants = {}
    for combination in itertools.product(*several):
        called = ", ".join(_called(name, value) for name, value in combination)
        variants[called] = [f"{name}={value}" for name, value in combination]
    return same, variants


def _called(name: str, value: str) -> str:
    """A name such as that of an optimizer stands for itself; a number says what it is of."""
    return value if isinstance(literal(value), str) else f"{name.rpartition('.')[2]}={value}"


def compare(
    base: Recipe,
    variants: Variants,
    folder: str | Path,
    *,
    seeds: Sequence[int] = (),
    metric: str = "",
    picture: str | Path | None = None,
    title: str = "",
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Trains variants of a recipe and draws their learning curves, and how far training and validation are apart.

    Everything is built once before anything is trained, so that a mistake in the last variant is found at once. A
    variant whose loss is no longer a number is told of, and does not end the others.

    Args:
      base: the recipe.
      variants: see `Variants`.
      folder: of the comparison; made if it is not there.
      seeds: each variant is trained with each of these, and means and standard deviations are told; none for that of
        the recipe alone.
      metric: a column of the history; by default accuracy where there is one, else the loss.
      picture: the file; `compare.png` in the folder by default.
      title: of the picture.
      progress: whether to show a bar for each run.
      tell: is given a line before each run.

    Returns:
      What `compare.json` holds: for each variant the metric at the end of training, on the training and the validation
      split, both in inference, and the gap, by which the first is the better; and the metric of the best checkpoint on
      the test split.

    Raises:
      ValueError: a setting is wrong, two variants are the same, or the folder holds other runs; before any training.
    """
    folder = Path(folder)
    planned = {label: _runs_of(base, label, settings, seeds, folder) for label, settings in variants.items()}
    _require_distinct(planned)
    for label, each in planned.items():
        for place, recipe in each.items():
            _require_room(place, recipe)
            if not (place / "report.json").is_file():
                try:
                    build(resolve(recipe))
                except ValueError as error:
                    raise ValueError(f"{label}: {error}" if label else str(error)) from error
    rows, histories = [], {}
    total, count = sum(map(len, planned.values())), 0
    for label, each in planned.items():
        found = []
        for place, recipe in each.items():
            count += 1
            tell(f"{count} of {total}: {place.name}")
            found.append(_trained(place, recipe, progress))
        histories[label] = [history for history, _, _ in found if history]
        rows.append({"variant": label, "settings": list(variants[label]), "runs": [str(place) for place in each]})
        rows[-1]["found"] = found
    metric = _metric(metric, histories)
    told = [_row(row, metric) for row in rows]
    file = Path(picture or folder / "compare.png")
    ends = {row["variant"]: row["ends"] for row in told}
    pictures.variants(histories, ends, file, metric=metric, title=title)
    for row in told:
        del row["ends"]
    result = {"recipe": dataclasses.asdict(base), "metric": metric, "picture": str(file), "variants": told}
    write_whole(folder / "compare.json", as_json(result) + "\n")
    write_whole(folder / "compare.csv", _as_csv(told))
    return result


def _runs_of(
    base: Recipe, label: str, settings: Sequence[str], seeds: Sequence[int], folder: Path
) -> dict[Path, Recipe]:
    """The run folders of a variant, and their recipes."""
    recipe = with_absolute_paths(override(base, settings))
    name = re.sub(r"[^\w.=+-]+", "_", label).strip("_") or "run"
    if not seeds:
        return {folder / name: recipe}
    return {folder / f"{name}_seed{seed}": override(recipe, [f"seed={seed}"]) for seed in seeds}


def _require_distinct(planned: Mapping[str, Mapping[Path, Recipe]]) -> None:
    seen: dict[str, str] = {}
    places: dict[Path, str] = {}
    for label, each in planned.items():
        for place, recipe in each.items():
            other = seen.setdefault(recipe.to_json(), label)
            if other != label:
                raise ValueError(f"{other!r} and {label!r} are the same training: their settings do not differ")
            if places.setdefault(place, label) != label:
                raise ValueError(f"{places[place]!r} and {label!r} would have one folder, {place}; call one otherwise")


def _require_room(place: Path, recipe: Recipe) -> None:
    """Refuses a folder that holds the run of another recipe; one that was shorter goes on."""
    if not (place / "recipe.json").is_file():
        return
    kept = read_recipe(place)
    longer = recipe.epochs > kept.epochs
    changed = differences(dataclasses.replace(kept, epochs=recipe.epochs) if longer else kept, recipe)
    if changed and recipe.weights is None:  # the weights' own options are in what is kept
        raise ValueError(
            f"{place} holds a run of other settings; take another folder with --folder, or remove it:\n  "
            + "\n  ".join(changed)
        )


def _trained(place: Path, recipe: Recipe, progress: bool) -> tuple[History, dict[str, float], str]:
    """The history of a run, its figures by column, and what ended it before its time."""
    wrong = ""
    try:
        report = runs.train(recipe, place, resume=(place / "recipe.json").is_file(), progress=progress)
    except DivergedError as error:
        _LOG.warning("%s: %s", place.name, error)
        report, wrong = {}, str(error)
    history = read_history(place / "history.csv") if (place / "history.csv").is_file() else []
    if wrong or not finished_steps(place):
        return history, {}, wrong or "it has not ended"
    last = zoo.load_model(place / CHECKPOINTS / str(int(history[-1]["step"])))
    run = Run(recipe, load_data(recipe), last.model, jax.device_put(last.variables))
    at_end = examine(run, "train").report
    figures = {f"training_{name.removeprefix('train_')}": v for name, v in at_end.items() if name != "classes"}
    figures |= {name: v for name, v in history[-1].items() if name.startswith("validation_")}
    figures |= {name: v for name, v in report.items() if name.startswith("test_")}
    return history, {**figures, "seconds": history[-1]["seconds"]}, ""


def _metric(wanted: str, histories: Mapping[str, Sequence[History]]) -> str:
    columns = [set(history[0]) for each in histories.values() for history in each]
    if not columns:
        raise ValueError("no variant came to an evaluation: every loss is no number; lower the learning rate")
    known = sorted(set.intersection(*columns) - {"step", "epoch", "seconds"})
    known = [name for name in known if not name.startswith("validation_")]
    if not wanted:
        return "accuracy" if "accuracy" in known else "loss"
    if wanted not in known:
        raise ValueError(unknown("metric of these runs", wanted, known))
    return wanted


def _row(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """The means over a variant's runs, and their standard deviations where there are several."""
    figures = [figures for _, figures, wrong in row["found"] if not wrong]
    training, validation = f"training_{metric}", f"validation_{metric}"
    ends = [(each[training], each[validation]) for each in figures if {training, validation} <= set(each)]
    columns = {name: [each[name] for each in figures if name in each] for name in (training, validation)}
    columns["gap"] = [a - b if higher_is_better(metric) else b - a for a, b in ends]
    columns[f"test_{metric}"] = [each[f"test_{metric}"] for each in figures if f"test_{metric}" in each]
    columns["seconds"] = [each["seconds"] for each in figures]
    told: dict[str, Any] = {"variant": row["variant"], "settings": row["settings"], "runs": row["runs"]}
    for name, values in columns.items():
        if values:
            told[name] = float(np.mean(values))
        if len(values) > 1 and name != "seconds":
            told[f"{name}_sd"] = float(np.std(values, ddof=1))
    if wrong := [message for _, _, message in row["found"] if message]:
        told["ended_early"] = wrong
    return {**told, "ends": ends}


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    flat = [
        {name: "; ".join(map(str, v)) if isinstance(v, list) else v for name, v in row.items() if name != "runs"}
        for row in rows
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in flat for name in row)))
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
