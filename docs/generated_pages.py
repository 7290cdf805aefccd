"""The pages that nobody writes: models, recipes, the reference of public names, and the notebooks.

They are made before each build, from the registries, from docstrings, from the README's tables and from `notebooks/`.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import hashlib
import importlib
import inspect
import json
import multiprocessing
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent

Pages = Iterator[tuple[str, str | bytes]]
"""Name of a file in its folder, and its content."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Makes the pages before Sphinx looks for sources."""
    app.connect("config-inited", lambda app, config: write_all())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_all() -> None:
    """Writes the four folders. A page that is as it was is not touched, so that Sphinx does not read it again."""
    for folder, pages in {"models": models, "recipes": recipes, "api": api, "notebooks": notebooks}.items():
        there = HERE / folder
        there.mkdir(exist_ok=True)
        contents = {there / name: each if isinstance(each, bytes) else each.encode() for name, each in pages()}
        for old in set(there.iterdir()) - set(contents):
            old.unlink()
        for path, content in contents.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


# --- models


def facts(name: str) -> dict[str, Any]:
    """What `zoo card` tells of a model, and its layers down to a depth that a reader can follow."""
    import zoo
    from zoo import registry, summary

    card, builder, model = zoo.model_card(name), registry.model_builder(name), zoo.create_model(name)
    layers = [layer for layer in summary.layers(model, card.example()) if layer.path]
    depth = max(
        (d for d in range(1, 9) if sum(layer.path.count("/") < d for layer in layers) <= LONGEST_TABLE), default=1
    )
    return {
        "paper": card.paper,
        "task": card.task,
        "input": [1, *card.input_shape],
        "dtype": card.input_dtype,
        "parameters": card.num_parameters,
        "flops": summary.flops(model, card.example()),
        "licence": card.weights_licence,
        "options": {key: getattr(value, "__name__", repr(value)) for key, value in card.options.items()},
        "class": builder.__name__,
        "module": builder.__module__,
        "layers": [list(layer) for layer in layers if layer.path.count("/") < depth],
        "hidden": sum(layer.path.count("/") >= depth for layer in layers),
    }


LONGEST_TABLE = 60
"""Rows of layers on a page."""


def all_facts() -> dict[str, dict[str, Any]]:
    """The facts of every model. They take a minute of tracing, so they are kept until a file of `zoo` changes."""
    import jax

    import zoo

    code = "".join(path.read_text() for path in sorted((ROOT / "zoo").rglob("*.py")))
    key = hashlib.sha256((code + inspect.getsource(facts) + jax.__version__).encode()).hexdigest()
    kept = HERE / "_build" / "cards.json"
    if kept.exists() and (old := json.loads(kept.read_text()))["key"] == key:
        return old["facts"]
    names = zoo.list_models()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(facts, names, chunksize=4), strict=True))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"key": key, "facts": found}))
    return found


def models() -> Pages:
    """A page for each model, and a table of all."""
    found, used, public = all_facts(), defaultdict(list), _public_classes()
    for name, recipe in _recipes().items():
        used[recipe.model].append(name)
    families = defaultdict(list)
    for name, fact in found.items():
        families[fact["module"], fact["class"]].append(name)
    rows = [
        [f"[`{name}`]({name}.md)", f"{f['parameters']:,}", _short(f["flops"]), _shape(f["input"][1:]), f["task"]]
        for name, f in found.items()
    ]
    yield (
        "index.md",
        _page(
            "# Models",
            f"{len(found)} models, each built by its name: `zoo.create_model(NAME)`. Parameters are exact counts, and "
            "FLOPs are those of one inference of one example as XLA counts them (a multiply-add is two). How published "
            "weights are read is told in [published weights](../guide/weights.md).",
            _table(["model", "parameters", "FLOPs", "input", "task"], rows),
            _toctree(found),
        ),
    )
    for name, f in found.items():
        described = public.get((f["module"], f["class"]))
        family = [f"[`{other}`]({other}.md)" for other in families[f["module"], f["class"]] if other != name]
        about = [
            ["paper", f["paper"] or "—"],
            ["task", f"`{f['task']}`"],
            ["input", f"`{_shape(f['input'])}` {f['dtype']}, the first axis is the batch"],
            ["parameters", f"{f['parameters']:,}"],
            ["FLOPs", f"{f['flops']:,} for one example"],
            ["class", f"{{py:class}}`{described}`" if described else f"`{f['module']}.{f['class']}`"],
        ]
        if f["licence"]:
            about.append(["licence of published weights", f["licence"]])
        if used[name]:
            about.append(["recipes", ", ".join(f"[`{recipe}`](../recipes/{recipe}.md)" for recipe in used[name])])
        if family:
            about.append(["same class", ", ".join(family)])
        hidden = f"{f['hidden']} layers inside of these are not shown; `zoo card {name}` shows all." * bool(f["hidden"])
        layers = [[f"`{path}`", kind, f"`{_shape(shape)}`", f"{n:,}"] for path, kind, shape, n in f["layers"]]
        example = f"jnp.zeros({tuple(f['input'])}" + (f", jnp.{f['dtype']})" if f["dtype"] != "float32" else ")")
        parts = [
            f"# {name}",
            _table(["", ""], about),
            "```python\nimport jax, jax.numpy as jnp, zoo\n\n"
            f'model = zoo.create_model("{name}")\n'
            f"x = {example}\n"
            "variables = model.init(jax.random.key(0), x)\noutput = model.apply(variables, x)\n```",
            "## Options",
            "Each is an argument of `zoo.create_model`, and of a recipe's `model_options`.",
            _table(["option", "default"], [[f"`{option}`", f"`{value}`"] for option, value in f["options"].items()]),
            "## Layers",
            hidden,
            _table(["layer", "kind", "output", "parameters"], layers),
        ]
        yield f"{name}.md", _page(*parts)


def _public_classes() -> dict[tuple[str, str], str]:
    """The public names of classes, by the module that defines them."""
    return {
        (found.__module__, found.__name__): f"{module}.{name}"
        for module, names in public_names().items()
        for name in names
        if inspect.isclass(found := getattr(importlib.import_module(module), name))
    }


# --- recipes


def _recipes() -> dict[str, Any]:
    import train.recipes  # noqa: F401
    from train.recipe import get_recipe, list_recipes

    return {name: get_recipe(name) for name in list_recipes()}


def readme_rows(readme: str) -> dict[str, list[str]]:
    """By recipe the cells behind its name in the README's table, in its order: what was reached is told there once."""
    table = readme.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    without_links = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", table)  # they start from where the README is
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", without_links, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def recipes() -> Pages:
    """A page for each recipe, and the README's table of all."""
    from train.recipe import Recipe, describe_recipe
    from zoo.registry import list_models

    readme, known = (ROOT / "README.md").read_text(), set(list_models())
    found = _recipes()
    in_readme = readme_rows(readme)
    if missing := sorted(found.keys() ^ in_readme.keys()):
        raise ValueError(f"the recipes and the rows of README.md differ by {', '.join(missing)}")
    rows = [[f"[`{name}`]({name}.md)", *cells] for name, cells in in_readme.items()]
    yield (
        "index.md",
        _page(
            "# Recipes",
            "A recipe names model, data, task, optimizer, schedule and length of a training. `zoo train NAME` trains "
            "it, and `zoo train NAME epochs=3 seed=1` changes its settings. Where nothing else is said, times are "
            "those of 2 CPU cores.",
            _table(["recipe", "model and data", "time", "on the test split"], rows),
            _toctree(found),
        ),
    )
    defaults = {field.name: field for field in dataclasses.fields(Recipe)}
    for name, recipe in found.items():
        about = describe_recipe(name)
        prose, _, facts_of_run = about.partition("\nCommand:")
        lines = "Command:" + facts_of_run if facts_of_run else ""
        told = re.findall(r"^(\w+): (.*(?:\n(?!\w+: ).+)*)", lines, re.MULTILINE)
        settings = [
            [f"`{field}`", f"`{value!r}`"]
            for field, value in dataclasses.asdict(recipe).items()
            if value != _default(defaults[field])
        ]
        model = f"[`{recipe.model}`](../models/{recipe.model}.md)" if recipe.model in known else "that of the weights"
        rows = [["model", model], ["data", f"`{recipe.data}`"], ["task", f"`{recipe.task}`"]]
        parts = [
            f"# {name}",
            prose.strip(),
            _table(["", ""], rows + [[word.lower(), _code(word, " ".join(text.split()))] for word, text in told]),
            f"```sh\nzoo train {name}\n```",
            "## Settings",
            "Those that differ from the defaults of {py:class}`~train.recipe.Recipe`:",
            _table(["setting", "value"], settings),
        ]
        yield f"{name}.md", _page(*parts)


def _code(word: str, text: str) -> str:
    return f"`{text}`" if word == "Command" else text


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


# --- the reference


def public_names() -> dict[str, list[str]]:
    """What users import, by module: the list that `tests/test_layout.py` holds."""
    tree = ast.parse((ROOT / "tests" / "test_layout.py").read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PUBLIC"
    )
    names = defaultdict(list)
    for line in listed.strip().splitlines():
        module, _, rest = line.partition(": ")
        names[module] += rest.split()
    return dict(names)


def api() -> Pages:
    """A page for each module with public names, and an index for each package."""
    packages = {
        "zoo": "models, layers, weights",
        "data": "data sets, and the order in which a training sees them",
        "train": "tasks, optimizers, the loop, plans, recipes, trained runs",
    }
    modules = public_names()
    entries = []
    for package, about in packages.items():
        own = [module for module in modules if module.partition(".")[0] == package]
        rows = [
            [f"[`{module}`]({module}.rst)", ", ".join(f"{{py:obj}}`~{module}.{name}`" for name in modules[module])]
            for module in own
        ]
        entries.append(f"## {package}: {about}\n\n" + _table(["module", "public names"], rows) + "\n\n" + _toctree(own))
    yield (
        "index.md",
        _page(
            "# Reference",
            "Every public name, from its docstring. `zoo`, `data` and `train` are three packages: `zoo` and `data` "
            "import neither each other nor `train`.",
            *entries,
        ),
    )
    for module, names in modules.items():
        parts = [f"{module}\n{'=' * len(module)}", f".. automodule:: {module}", f".. currentmodule:: {module}"]
        parts += [_directive(importlib.import_module(module), module, name) for name in names]
        yield f"{module}.rst", _page(*parts)


def _directive(module: Any, path: str, name: str) -> str:
    found = getattr(module, name)
    if inspect.isclass(found):
        kind = "exception" if issubclass(found, Exception) else "class"
        return f".. auto{kind}:: {path}.{name}\n   :members:\n   :special-members: __call__"
    return f".. autofunction:: {path}.{name}" if callable(found) else f".. autodata:: {path}.{name}\n   :no-value:"


# --- notebooks

README_SECTIONS = {
    "as-a-library": "../guide/library.md",
    "on-the-command-line": "../guide/command-line.md",
    "your-own-model-data-and-recipe": "../guide/your-own.md",
    "models": "../models/index.md",
    "data": "../guide/data.md",
    "transfer-learning": "../guide/transfer.md",
    "text": "../guide/text.md",
    "graphs": "../guide/graphs.md",
    "neural-odes": "../guide/neural-odes.md",
    "images-out-of-noise": "../guide/images-out-of-noise.md",
    "on-several-devices-and-machines": "../guide/devices.md",
    "speed": "../guide/speed.md",
}
"""Where this site tells what a notebook links to in the README."""


def notebooks() -> Pages:
    """The executed notebooks, with links into this site, and a list of them."""
    found = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    titles, pictures = [], []
    for path in found:
        notebook = json.loads(path.read_text())
        prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        for cell in prose:
            text = "".join(cell["source"])
            cell["source"] = re.sub(r"\]\(\.\./README\.md(?:#([\w-]*))?\)", _in_this_site, text)
        titles.append(next(line[2:] for c in prose for line in c["source"].splitlines() if line.startswith("# ")))
        yield path.name, json.dumps(notebook, indent=1, ensure_ascii=False)
        if drawn := _largest_picture(notebook):
            yield f"{path.stem}.png", drawn
            pictures.append(f"[{titles[-1]}](/notebooks/{path.name})\n\n![{titles[-1]}](/notebooks/{path.stem}.png)")
    yield "pictures.txt", "\n\n".join(pictures)
    rows = [[path.stem[:2], f"[{title}]({path.name})"] for path, title in zip(found, titles, strict=True)]
    yield (
        "index.md",
        _page(
            "# Notebooks",
            "They follow the chapters of the guide, run from start to end on a CPU, a GPU or a TPU, and import the "
            "packages as any program does. They stand in the folder `notebooks/`.",
            _table(["", "notebook"], rows),
            _toctree([path.stem for path in found]),
        ),
    )


def _largest_picture(notebook: dict[str, Any]) -> bytes:
    outputs = [each for cell in notebook["cells"] for each in cell.get("outputs", ())]
    drawn = ["".join(each["data"]["image/png"]) for each in outputs if "image/png" in each.get("data", {})]
    return base64.b64decode(max(drawn, key=len, default=""))


def _in_this_site(link: re.Match[str]) -> str:
    return f"]({README_SECTIONS[link[1]] if link[1] else '../index.md'})"


# --- Markdown


def _page(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _toctree(names: Any) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


def _shape(shape: Any) -> str:
    return "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join(map(str, shape)) or "scalar"


def _short(number: int) -> str:
    """Three digits and a unit: 4.09 G."""
    for unit, size in {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.items():
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
