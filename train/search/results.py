"""What a study has found: its tables, its pictures, and the best run."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import optuna

from train.files import as_json, read_json, write_whole
from train.measure import study_pictures
from train.recipe import Recipe
from train.runs import run as runs
from train.search.space import Space
from train.search.trials import rows

COMPLETE = optuna.trial.TrialState.COMPLETE


def summarise(study: optuna.Study, space: Space, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Writes the tables, the pictures and the report of a study, and those of its best run.

    The test split is looked at here, for the best run alone.

    Raises:
      ValueError: no trial has a value.
    """
    table = rows(study, space)
    for row in table:
        row["run"] = str(run) if (run := folder / "trials" / f"{row['trial']:04d}").is_dir() else ""
    write_whole(folder / "trials.json", as_json(table) + "\n")
    write_whole(folder / "trials.csv", _csv(table))
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    done = [row for row in table if row["state"] == "complete"]
    if not done:
        failed = next((f"; trial {row['trial']}: {row['failure']}" for row in table if row["failure"]), "")
        raise ValueError(
            f"no trial of the study in {folder} has been trained to its end; {len(table)} were begun{failed}"
        )
    best = (max if maximize else min)(done, key=lambda row: row["value"])
    importance = importances(study)
    counts = {state: sum(row["state"] == state for row in table) for state in ("complete", "pruned", "failed")}
    report: dict[str, Any] = {
        "study": str(folder),
        "metric": recipe.monitor,
        "goal": "highest" if maximize else "lowest",
        "trials": len(table),
        **counts,
        "best": {"trial": best["trial"], "run": best["run"], "value": best["value"], "settings": best["settings"]},
        "importance": importance,
    }
    if best["run"]:  # else on another machine
        report["best"]["report"] = _reported(Path(best["run"]))
    write_whole(folder / "report.json", as_json(report) + "\n")
    label = recipe.monitor.replace("_", " ")
    study_pictures.history(table, folder / "history.png", label=label, maximize=maximize)
    if importance:
        study_pictures.importance(importance, folder / "importance.png", label=label)
    logarithmic = {name for t in study.get_trials(deepcopy=False) for name in _logarithmic(t)}
    study_pictures.parallel(
        table, folder / "parallel.png", label=label, maximize=maximize, logarithmic=logarithmic, order=_order(study)
    )
    return {**report, "table": table}


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of each draw in what made trials good, the greatest first; empty where too few trials tell.

    By Optuna's PED-ANOVA (Watanabe, Bansal, Hutter 2023), over the trials that were trained to their end, of the draws
    that all of these have: what the width of a fourth layer matters, few trials would tell.
    """
    done = [trial.params for trial in study.get_trials(deepcopy=False, states=(COMPLETE,))]
    shared = [name for name in (done[0] if done else ()) if all(name in params for params in done)]
    with warnings.catch_warnings():  # that there are few trials
        warnings.simplefilter("ignore")
        try:
            return dict(optuna.importance.get_param_importances(study, params=shared))
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}


def _reported(run: Path) -> dict[str, Any]:
    if (run / "report.json").is_file():
        return read_json(run / "report.json", dict[str, Any])
    return runs.train(runs.read_recipe(run), run, resume=True, progress=False)


def _csv(table: list[dict[str, Any]]) -> str:
    """A line for each trial, a column for each draw."""
    draws = list(dict.fromkeys(name for row in table for name in row["draws"]))
    names = ["trial", "state", "value", "evaluations", "seconds", "failure", "run"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=[*names, *draws])
    writer.writeheader()
    writer.writerows({**{name: row[name] for name in names}, **row["draws"]} for row in table)
    return text.getvalue()


def _logarithmic(trial: Any) -> list[str]:
    return [name for name, kind in trial.distributions.items() if getattr(kind, "log", False)]


def _order(study: optuna.Study) -> dict[str, list[str]]:
    """The choices of each draw that has some, as they were written."""
    kinds = {name: kind for trial in study.get_trials(deepcopy=False) for name, kind in trial.distributions.items()}
    choices = {n: k.choices for n, k in kinds.items() if isinstance(k, optuna.distributions.CategoricalDistribution)}
    return {name: list(map(str, texts)) for name, texts in choices.items()}
