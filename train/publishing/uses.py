"""What a trained run is good for: commands, and examples of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.inference.loading import read_recipe
from train.recipe import Recipe
from zoo.checkpoint import saved_meta
from zoo.published import find

_USES = {
    "anil": ("adapt",),
    "density": ("sample",),
    "diffusion": ("sample",),
    "gan": ("sample",),
    "graph_classification": ("predict",),
    "language_modeling": ("generate",),
    "latent_ode": (),
    "link_prediction": ("predict",),
    "maml": ("adapt",),
    "node_classification": ("predict",),
    "prototypical": ("adapt",),
    "reptile": ("adapt",),
    "seq2seq": ("translate",),
    "vae": ("sample",),
}
"""Commands for a run beside `evaluate`, by its task."""


def require_predictions(run: str | Path) -> None:
    """Refuses a run that writes, draws or translates, and names the command for it, before its data are looked for.

    Raises:
      ValueError: the run has nothing to predict.
    """
    file = find(run) / "recipe.json"
    task = read_recipe(file.parent).task if file.is_file() else ""
    for use in _USES.get(task, ()):
        if use not in ("predict", "adapt"):
            raise ValueError(f"this run is no classifier, but does {task}: zoo {use} {run}")


def require_export(run: str | Path) -> None:
    """Refuses a run that is no classifier of images, and names what it is good for, before its data are looked for.

    Raises:
      ValueError: no program is exported of it.
    """
    folder = find(run)
    if not (folder / "recipe.json").is_file():
        return
    recipe, meta = read_recipe(folder), saved_meta(folder)
    fields = meta.get("data", {}).get("fields", ())
    if not fields or "export" in uses_of(recipe, meta):
        return
    if recipe.task in _USES or recipe.task == "regression":
        why = f"this run is no classifier, but does {recipe.task}"
    else:
        why = f"the data of this run ({recipe.data}) are not images, but {', '.join(fields)}"
    lines = "".join(f"{line}; " for line in examples(recipe, meta, str(run)))
    raise ValueError(
        f"only classifiers of images are exported, and {why}; use it by {lines}or in Python by "
        f"zoo.load_model({str(run)!r}), which gives its model and variables"
    )


def uses(recipe: Recipe, folder: str | Path) -> tuple[str, ...]:
    """The commands that a run is good for."""
    return uses_of(recipe, saved_meta(folder))


def uses_of(recipe: Recipe, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """`uses` of a run whose checkpoint says this."""
    fields, classes = (meta.get("data", {}).get(name, ()) for name in ("fields", "classes"))
    if recipe.task in _USES:
        others = _USES[recipe.task]
        pictures = "support_image" in fields or others != ("adapt",)
        return ("evaluate", *(others if pictures else ()))
    if "preprocessing" in meta or ("image" in fields and (classes or recipe.task == "regression")):
        return ("evaluate", "predict", "export") if classes else ("evaluate", "predict")
    return ("evaluate", "predict") if "table" in meta or "texts" in meta else ("evaluate",)


def examples(recipe: Recipe, meta: Mapping[str, Any], name: str) -> list[str]:
    """A command line for each use but `export`, with what it is given."""
    known = uses_of(recipe, meta)
    given = _ON_GRAPHS.get(recipe.task, "picture.png")
    if recipe.data.startswith("graph:") and not recipe.data.lower().endswith(".npz"):  # nodes have names
        given = {"0 17": "NODE", "3-17": "NODE-NODE"}.get(given, given)
    if "table" in meta:
        given = "lines.csv"
    elif "texts" in meta:
        given = '--text "…"'
    lines = {
        "predict": f"zoo predict {name} {given}",
        "generate": f"zoo generate {name} --temperature 0.7",
        "sample": f"zoo sample {name} --out samples.png",
        "translate": f'zoo translate {name} "{_SOURCES.get(recipe.data, "…")}"',
        "adapt": f"zoo adapt {name} --support letters --query new.png",
    }
    return [line for use, line in lines.items() if use in known]


_ON_GRAPHS = {"node_classification": "0 17", "link_prediction": "3-17", "graph_classification": "graph.npz"}
"""What `zoo predict` is given, by task."""

_SOURCES = {"dates": "3rd of March, 1998"}
"""Examples of texts to translate, by data set."""
