"""The card of a registered model: what it is made of, what weights there are, how it is used."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import zoo
from train.recipe import get_recipe, list_recipes
from zoo import summary
from zoo.hub_folder import CONFIG, read_json
from zoo.pretrained.known import KNOWN
from zoo.published import SHIPPED, shipped_models
from zoo.summary import Layer


class ModelFacts(NamedTuple):
    """What is known of a model without computing with it.

    Attributes:
      summary: name, task, paper, input, parameters, operations of one inference, options.
      layers: its modules.
    """

    summary: dict[str, Any]
    layers: list[Layer]


def model_facts(name: str, options: dict[str, Any]) -> ModelFacts:
    """What is known of a model with some options.

    Raises:
      ValueError: no model has this name, or it cannot have these options.
    """
    entry = zoo.model_card(name)
    model = zoo.create_model(name, **options)
    x = entry.example()
    try:
        layers = summary.layers(model, x)
    except TypeError as error:
        given = ", ".join(f"{option}={value}" for option, value in options.items())
        raise ValueError(f"model {name!r} cannot be built with {given}: {error}") from error
    facts = {
        "name": name,
        "task": entry.task,
        "paper": entry.paper,
        "input": list(x.shape),
        "parameters": summary.count_parameters(summary.abstract_variables(model, x)["params"]),
        "flops": summary.flops(model, x),
        "options": {k: getattr(v, "__name__", v) for k, v in {**entry.options, **options}.items()},
        "weights_licence": entry.weights_licence,
    }
    return ModelFacts(facts, layers)


def markdown_card(facts: ModelFacts) -> str:
    """The card of a model in Markdown: facts, weights, three ways to use it, options, layers."""
    name, known = facts.summary["name"], facts.summary
    size = math.prod(known["input"])
    rows = {
        "task": known["task"],
        "paper": known["paper"] or "–",
        "input": f"{known['input']}, {zoo.model_card(name).input_dtype}",
        "parameters": f"{known['parameters']:,} ({4 * known['parameters'] / 1e6:,.1f} MB in float32)",
        "operations": f"{known['flops'] / 1e9:,.3g} GFLOP for one example (a multiply-add is two)",
        "outputs of layers": f"{_activations(facts.layers):,} numbers for one example, whose input has {size:,}",
    }
    sections = [f"# {name}", _pairs(rows), _weights(name), _usage(name)]
    options = {f"`{option}`": f"`{value!r}`" for option, value in known["options"].items()}
    sections.append("## Options\n\n" + _pairs(options, ("option", "default")))
    layers = [
        f"| `{each.path}` | {each.kind} | {list(each.output_shape)} | {each.num_parameters:,} |"
        for each in facts.layers
    ]
    sections.append("\n".join(["## Layers\n", "| path | kind | output | parameters |", "|---|---|---|---|", *layers]))
    return "\n\n".join(section for section in sections if section) + "\n"


def _activations(layers: list[Layer]) -> int:
    """The outputs of all modules that have parameters of their own: convolutions, dense layers, norms."""
    inner = {layer.path.rpartition("/")[0] for layer in layers if layer.path}
    return sum(math.prod(layer.output_shape) for layer in layers if layer.num_parameters and layer.path not in inner)


def _weights(name: str) -> str:
    lines = [
        f"- `{shipped}` ships with the zoo: `zoo card {shipped}`."
        for shipped in shipped_models()
        if read_json(SHIPPED / shipped / CONFIG)["model"] == name
    ]
    if name in KNOWN:
        row = KNOWN[name]
        said = f": {row.published} ({row.reference})" if row.published else ""
        lines.append(f"- [{row.source}](https://huggingface.co/{row.source}), {row.licence}{said}.")
    trained = [each for each in list_recipes() if get_recipe(each).model == name]
    if trained:
        lines.append(f"- Recipes that train it: {', '.join(f'`zoo train {each}`' for each in trained)}.")
    return "\n".join(["## Weights\n", *lines]) if lines else ""


def _usage(name: str) -> str:
    entry = zoo.model_card(name)
    x = f'jnp.zeros({[2, *entry.input_shape]}, "{entry.input_dtype}")'
    lines = ["## Use", "", "```python", "import jax, jax.numpy as jnp, zoo", "", f'model = zoo.create_model("{name}")']
    lines += [f"x = {x}", "variables = model.init(jax.random.key(0), x)", "outputs = model.apply(variables, x)", "```"]
    if "num_classes" in entry.options:
        features = f'features = zoo.create_model("{name}", num_classes=0)  # in place of logits'
        lines += ["", "```python", "import zoo", "", features, "```"]
    if name in KNOWN:
        load = f'model, variables = zoo.pretrained.load("{name}")  # pip install "flaxzoo[hub]"'
        lines += ["", "```python", "import zoo", "", load, "```"]
    return "\n".join(lines)


def _pairs(rows: dict[str, Any], head: tuple[str, str] = ("", "")) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {what} | {said} |" for what, said in rows.items())]
    return "\n".join(lines)
