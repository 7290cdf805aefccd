"""Cards: what somebody needs to know of a trained run before they use it, as the hub of Hugging Face shows it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data.registry import dataset_builder
from train.files import read_json
from train.inference.loading import read_recipe
from train.publishing.headline import headline
from train.publishing.uses import examples, uses_of
from train.recipe import Recipe, describe_recipe, differences, get_recipe, list_recipes
from train.tasks import CLASSIFIERS
from zoo.checkpoint import saved_meta
from zoo.hub_folder import CARD, WEIGHTS
from zoo.published import find, is_published, shipped_models
from zoo.registry import list_models, model_card

_PIPELINES = {
    "diffusion": "unconditional-image-generation",
    "gan": "unconditional-image-generation",
    "vae": "unconditional-image-generation",
    "graph_classification": "graph-ml",
    "link_prediction": "graph-ml",
    "node_classification": "graph-ml",
    "language_modeling": "text-generation",
    "seq2seq": "translation",
}
"""What the hub calls a task."""


class Facts(NamedTuple):
    """What a run folder, or a published model, says of itself.

    Attributes:
      folder: where it is.
      recipe: what it was trained by; None of weights that were not trained here.
      recipe_name: of a recipe of `zoo recipes` that is the same but for the seed; "" where there is none.
      meta: what its checkpoint says.
      report: its report; empty where it has none.
    """

    folder: Path
    recipe: Recipe | None
    recipe_name: str
    meta: dict[str, Any]
    report: dict[str, Any]


def facts_of(run: str | Path) -> Facts:
    """What is known of a run, a published model, or a folder of `zoo convert`.

    Raises:
      ValueError: there is no such thing.
    """
    folder = find(run)
    bare = not (folder / "recipe.json").is_file() and ((folder / "meta").is_dir() or is_published(folder))
    recipe = None if bare else read_recipe(folder)
    report = folder / "report.json"
    return Facts(
        folder,
        recipe,
        "" if recipe is None else recipe_named(recipe),
        saved_meta(folder),
        read_json(report, dict[str, Any]) if report.is_file() else {},
    )


def recipe_named(recipe: Recipe) -> str:
    """The name of the recipe of `zoo recipes` that this one is, whatever its seed; "" where it is none."""
    for name in list_recipes():
        if not differences(dataclasses.replace(get_recipe(name), seed=recipe.seed), recipe):
            return name
    return ""


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with the last name alone of data and weights that it names by a path on this machine."""
    weights = recipe.weights and _last(recipe.weights)
    return dataclasses.replace(recipe, data=_short(recipe.data), weights=weights)


def run_card(facts: Facts, name: str, *, licence: str | None = None) -> str:
    """The card of a trained run, or of converted weights, in Markdown with a head of YAML.

    Args:
      facts: of the run.
      name: by which it is loaded: a path, a name that ships, or `USER/NAME`.
      licence: of the weights, as the hub writes it, such as "apache-2.0"; None leaves it open.
    """
    title = name.rstrip("/").rpartition("/")[2]
    model = facts.meta["model"]
    sections = [_head(facts, title, licence), f"# {title}", _about(facts), _table(facts), _usage(facts, name)]
    if metrics := _metrics(facts):
        sections.append(metrics)
    if facts.recipe is not None:
        sections.append(_training(facts))
    if model in list_models() and (paper := model_card(model).paper):
        sections.append(f"## Paper\n\n{paper}")
    said = f"The weights are under the licence {licence}." if licence else "The licence of the weights is not stated."
    sections.append(f"## Licence\n\n{said} The data have terms of their own.")
    return "\n\n".join(sections) + "\n"


def stated_licence(folder: Path) -> str | None:
    """The licence that the head of a published model's card states, if any."""
    card = folder / CARD
    head = re.match(r"---\n(.*?)^---$", card.read_text(errors="replace"), re.S | re.M) if card.is_file() else None
    stated = head and re.search(r"^license: *[\"']?([^\"'\n]+?)[\"']?$", head[1], re.M)
    return stated[1] if stated else None


def _head(facts: Facts, title: str, licence: str | None) -> str:
    """YAML; each value is JSON, which is YAML too."""
    lines = ["---", "library_name: flaxzoo"]
    if licence:
        lines.append(f"license: {json.dumps(licence)}")
    if pipeline := _pipeline(facts):
        lines.append(f"pipeline_tag: {pipeline}")
    lines.append(f"tags: {json.dumps(['flax', 'jax', facts.meta['model']])}")
    found = None if facts.recipe is None else headline(facts.recipe.task, facts.report)
    if facts.recipe is not None and found is not None:
        result = {
            "task": {"type": pipeline or "other", "name": facts.recipe.task},
            "dataset": {"type": _short(facts.recipe.data), "name": _short(facts.recipe.data), "split": found.split},
            "metrics": [{"type": found.name, "name": f"{found.split} {found.name}", "value": found.value}],
        }
        lines += ["model-index:", f"- name: {json.dumps(title)}", f"  results: [{json.dumps(result)}]"]
    return "\n".join([*lines, "---"])


def _pipeline(facts: Facts) -> str:
    task = "classification" if facts.recipe is None else facts.recipe.task
    fields = facts.meta.get("data", {}).get("fields", ())
    if task in _PIPELINES:
        return _PIPELINES[task]
    kinds = {"texts": "text", "table": "tabular", "preprocessing": "image"}
    kind = next((word for what, word in kinds.items() if what in facts.meta), "image" if "image" in fields else "")
    return f"{kind}-{task}" if (kind, task) in _HUB_TASKS else ""


_HUB_TASKS = (
    ("image", "classification"),
    ("text", "classification"),
    ("tabular", "classification"),
    ("tabular", "regression"),
)


def _short(data: str) -> str:
    """The name of a data set without the folders of a path on this machine."""
    kind, colon, path = data.partition(":")
    return f"{kind}{colon}{_last(path)}" if colon else kind


def _last(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _about(facts: Facts) -> str:
    if facts.recipe is None:
        return f"Weights of `{facts.meta['model']}` for flaxzoo, converted from those of others."
    if facts.recipe_name:
        return describe_recipe(facts.recipe_name).partition("\n\nCommand:")[0]
    return f"`{facts.meta['model']}`, trained on `{_short(facts.recipe.data)}` for the task {facts.recipe.task}."


def _table(facts: Facts) -> str:
    rows = {"model": f"`{facts.meta['model']}`"}
    if "parameters" in facts.report:
        rows["model"] += f", {facts.report['parameters']:,} parameters"
    if facts.recipe is not None:
        rows["data"] = f"`{_short(facts.recipe.data)}`{_described(facts.recipe.data)}"
        found = headline(facts.recipe.task, facts.report)
        if found is not None:
            size = facts.meta.get("data", {}).get("sizes", {}).get(found.split)
            rows["reached"] = f"{found.words} on the {found.split} split" + (f" of {size:,}" if size else "")
    classes = facts.meta.get("classes") or facts.meta.get("data", {}).get("classes", ())
    if classes and (facts.recipe is None or facts.recipe.task in CLASSIFIERS):
        more = ", …" if len(classes) > _SHOWN else ""
        rows["classes"] = f"{len(classes)}: {', '.join(classes[:_SHOWN])}{more}"
    if (file := facts.folder / WEIGHTS).is_file():
        kind = facts.meta.get("stored", "float32")
        rows["file"] = f"`{WEIGHTS}`, {file.stat().st_size / 1e6:.2f} MB, {kind}"
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {said} |" for what, said in rows.items())])


_SHOWN = 20


def _described(data: str) -> str:
    builder = dataset_builder(data)
    words = inspect.getdoc(builder) if builder is not None else None
    return f": {words.partition(chr(10) * 2)[0].replace(chr(10), ' ')}" if words else ""


def _usage(facts: Facts, name: str) -> str:
    shipped = name in shipped_models()
    hub = not shipped and not Path(name).exists()
    recipe = facts.recipe or Recipe(model=facts.meta["model"], data="")
    commands = examples(recipe, facts.meta, name)
    if facts.recipe is not None:
        commands.append(f"zoo evaluate {name}")
    known = uses_of(recipe, facts.meta)
    if "export" in known:
        commands.append(f"zoo export {name} --out model.stablehlo")
    if "preprocessing" in facts.meta:
        commands.append(f"zoo train finetune data=folder:photos weights={name}")
    lines = ["## Use", "", "```bash", 'pip install "flaxzoo[hub]"' if hub else "pip install flaxzoo", *commands, "```"]
    lines += ["", "```python", "import zoo", "", f'model, variables = zoo.load_model("{name}")']
    if "predict" in known and recipe.task == "classification" and _pipeline(facts) == "image-classification":
        lines += ["", "from train.inference import predict", "", f'print(predict("{name}", ["picture.png"])[0])']
    return "\n".join([*lines, "```"])


def _metrics(facts: Facts) -> str:
    figures = {
        name: value
        for name, value in facts.report.items()
        if name.partition("_")[0] in ("test", "validation") and isinstance(value, int | float)
    }
    if not figures:
        return ""
    rows = [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in figures.items()]
    return "\n".join(["## Metrics", "", "| metric | value |", "|---|---|", *rows])


def _training(facts: Facts) -> str:
    assert facts.recipe is not None
    lines = ["## Training", ""]
    if facts.recipe_name:
        seed = f" seed={facts.recipe.seed}" if facts.recipe.seed else ""
        lines += [f"By the recipe `{facts.recipe_name}`: `zoo train {facts.recipe_name}{seed}`.", ""]
    else:
        lines += ["Settings that differ from those of `train.recipe.Recipe`:", ""]
        lines += [*(f"- `{each}`" for each in _settings(facts.recipe)), ""]
    rows = {name: facts.report[name] for name in ("steps", "best_step", "seconds") if name in facts.report}
    if "seconds" in rows:
        rows["seconds"] = f"{rows['seconds']}, among whatever else the machine did"
    rows |= {name: value for name, value in facts.report.get("conditions", {}).items() if value is not None}
    if rows:
        lines += [
            "| | |",
            "|---|---|",
            *(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in rows.items()),
        ]
    return "\n".join(lines).rstrip()


def _settings(recipe: Recipe) -> list[str]:
    kept = without_folders(recipe)
    usual = json.loads(Recipe(model="", data="").to_json())
    return [f"{name}={value}" for name, value in json.loads(kept.to_json()).items() if value != usual[name]]


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def as_facts(facts: Facts, name: str) -> Mapping[str, Any]:
    """The card as plain data."""
    found = None if facts.recipe is None else headline(facts.recipe.task, facts.report)
    return {
        "name": name,
        "model": facts.meta["model"],
        "recipe": facts.recipe_name or None,
        "data": None if facts.recipe is None else _short(facts.recipe.data),
        "task": None if facts.recipe is None else facts.recipe.task,
        "metric": None if found is None else found.metric,
        "value": None if found is None else found.value,
        "report": facts.report,
    }
