"""Commands that look into a training: diagnose, lr-find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json, RunFolder, picture_file


def diagnose(
    run: RunFolder,
    examples: Annotated[int, arg(help="training examples to look at the layers with")] = 256,
    out: Annotated[
        Path | None, arg(help="a folder to write pictures into: gradients by depth, histograms, first filters")
    ] = None,
    json: Json = False,
) -> None:
    """Look into a run: what each layer does in the next train step, and what is wrong.

    Activations, dead units, gradients and updates of the newest checkpoint, on training examples. It names layers that
    are dead or saturated, gradients that vanish or explode, a learning rate that is too high, NaN, over- and
    underfitting.
    """
    from train.files import require_writable
    from train.runs.diagnosis import diagnose_run

    if out is not None:
        require_writable(out)
    found, params = diagnose_run(run, examples=examples)
    files: list[Path] = []
    if out is not None:
        from train.measure import diagnosis_pictures

        files = diagnosis_pictures.write(found, params, out, title=f"{run.resolve().name}, step {found.step}")
    if json:
        from train.measure.diagnosis_pictures import as_facts

        return console.print_json(as_facts(found))
    rows = [
        {
            "layer": layer.name or layer.kind,
            "mean": layer.mean,
            "std": layer.std,
            "zeros": _percent(layer.zeros),
            "flat": _percent(layer.saturated),
            "dead": "" if layer.nonlinearity != "relu" else f"{layer.dead_units}/{layer.units}",
            "weight_std": layer.weight_std,
            "gradient": layer.gradient_norm,
            "of_output": layer.output_gradient_norm,
            "through_time": None if not layer.time_steps else f"{layer.through_time:.2g} in {layer.time_steps}",
            "update/weight": layer.update_ratio,
        }
        for layer in found.layers
        if layer.num_weights or layer.kind == "RNN"  # Flax's, whose weights are its cell's
    ]
    columns = tuple(name for name in rows[0] if name != "through_time" or any(row[name] for row in rows))
    table = [{name: _cell(value) for name, value in row.items()} for row in rows]
    print(f"step {found.step}: activations, weights, gradients and the next update of each layer with weights\n")
    console.print_table(table, columns)
    print()
    for finding in found.findings:
        print(console.printable(finding.words[:1].upper() + finding.words[1:]))
    if not found.findings:
        print("Nothing is wrong: no layer is dead or saturated, gradients neither vanish nor explode.")
    if files:
        print(f"\nin {console.printable(str(out))}: {', '.join(file.name for file in files)}")


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    return str(value or "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def lr_find(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a recipe of `zoo recipes`")],
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="NAME=VALUE", help="changes to it, such as optimizer=sgd model_options.dropout_rate=0.2"),
    ] = (),
    lowest: Annotated[float, arg(help="the first learning rate")] = 1e-7,
    highest: Annotated[float, arg(help="the last learning rate")] = 10.0,
    steps: Annotated[int, arg(help="how many rates are tried, one an update")] = 100,
    out: Annotated[Path | None, arg(help="the picture of the curve to write, a PNG")] = None,
    json: Json = False,
) -> None:
    """Suggest a learning rate for a recipe, by the range test: it rises from step to step until the loss does too.

    The recipe's own schedule and learning rate are left out, and nothing is kept of the training.
    """
    import train.recipes  # noqa: F401
    from train.recipe import get_recipe, override
    from train.runs.rate import find_recipe_rate

    out = None if out is None else picture_file(out)
    test = find_recipe_rate(override(get_recipe(recipe), settings), lowest=lowest, highest=highest, steps=steps)
    if out is not None:
        from train.measure import diagnosis_pictures

        out.parent.mkdir(parents=True, exist_ok=True)
        diagnosis_pictures.rate_test(test, out, title=recipe)
    if json:
        facts = {"suggestion": test.suggestion, "rates": test.rates.tolist(), "losses": test.losses.tolist()}
        return console.print_json(facts)
    if test.suggestion is None:
        print(f"no suggestion: the loss falls at no rate from {lowest:g} to {highest:g}; can the model learn?")
    else:
        print(f"learning_rate={test.suggestion:.2g}")
    if out is not None:
        print(f"the curve in {out}")
