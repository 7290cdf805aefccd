"""Recorded runs of the recipes: the reports of the models that ship under their names."""

from __future__ import annotations

from typing import Any

from train.files import read_json
from train.publishing.headline import headline
from zoo.published import SHIPPED


def record_of(recipe_name: str) -> dict[str, Any] | None:
    """The report of the recorded run of a recipe; None where none is recorded."""
    file = SHIPPED / recipe_name / "report.json"
    return read_json(file, dict[str, Any]) if file.is_file() else None


def in_words(task: str, record: dict[str, Any]) -> str:
    """What a recorded run reached, and under what conditions, in a sentence."""
    found, conditions = headline(task, record), record["conditions"]
    reached = "" if found is None else f"{found.words} on the {found.split} split; "
    return (
        f"{reached}{record['seconds']:.0f} s of training, whatever else ran; seed {conditions['seed']}, commit "
        f"{conditions['commit']}, jax {conditions['jax']}, {conditions['device']}, {conditions['cores']} cores"
    )
