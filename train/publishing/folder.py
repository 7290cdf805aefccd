"""A run as a published model: weights, card, recipe and report in a folder of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import zoo
from train.files import as_json, write_whole
from train.publishing.cards import Facts, facts_of, run_card, stated_licence, without_folders
from zoo.hub_folder import CARD, RUN_FILES
from zoo.published import write_published

_KEPT = ("model", "model_options", "preprocessing", "classes", "table", "texts", "data", "code")
"""What a checkpoint says that has nothing to do with its training."""


def publish(
    run: str | Path, out: str | Path, name: str | None = None, *, licence: str | None = None, half: bool = False
) -> Facts:
    """Writes the best checkpoint of a run as a published model: a folder that `zoo.load_model` and all commands take.

    Paths of this machine stay here: of data, weights and code in files only the last name is written.

    Args:
      run: what `zoo.published.find` finds: a run, a folder of `zoo convert`, a published model.
      out: the folder to write, which is made; an empty one may be there.
      name: by which the card says the model is loaded; that of the folder by default.
      licence: of the weights, such as "apache-2.0"; by default the one that a published model's card states.
      half: see `zoo.published.write_published`.

    Raises:
      FileExistsError: `out` holds something.
      ValueError: there is no such run, or it has no checkpoint.
    """
    out = Path(out)
    facts = facts_of(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; choose another folder or remove it")
    loaded = zoo.load_model(facts.folder)
    meta: dict[str, Any] = {key: facts.meta[key] for key in _KEPT if key in facts.meta}
    if "code" in meta:
        meta["code"] = [{**code, "file": Path(code["file"]).name} for code in meta["code"]]
    out.mkdir(parents=True, exist_ok=True)
    write_published(out, loaded.variables, meta, half=half)
    for file in RUN_FILES:
        if (facts.folder / file).is_file():
            shutil.copyfile(facts.folder / file, out / file)
    if facts.recipe is not None:
        write_whole(out / "recipe.json", without_folders(facts.recipe).to_json() + "\n")
    write_card(out, name or str(out), licence=licence or stated_licence(facts.folder))
    return facts_of(out)


def write_card(folder: Path, name: str, *, licence: str | None = None) -> None:
    """Writes the card of a published model into its folder, for those who load it by this name."""
    write_whole(folder / CARD, run_card(facts_of(folder), name, licence=licence))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Writes the report of a published model."""
    write_whole(folder / "report.json", as_json(report) + "\n")
