"""The command search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json


def search(
    recipe: Annotated[
        Positional[str], arg(metavar="RECIPE", help="a recipe whose model has a genotype, such as darts_digits")
    ],
    settings: Annotated[
        Positional[tuple[str, ...]], arg(metavar="NAME=VALUE", help="changes to it, such as epochs=3 seed=1")
    ] = (),
    method: Annotated[
        str,
        arg(
            help="random, evolution, reinforce, darts or darts2 (second order); several with commas, or all, are "
            "compared, random search always among them"
        ),
    ] = "darts",
    budget: Annotated[
        float, arg(help="passes over the training data, of all networks together that the search trains")
    ] = 40.0,
    trial_epochs: Annotated[float, arg(help="how many of them a network takes; a supernet takes them all")] = 4.0,
    space: Annotated[
        str,
        arg(
            help="small (2 nodes, 5 operations), s2 (2 nodes; a skip connection or a convolution) or darts (the "
            "paper's: 4 nodes, 8)"
        ),
    ] = "small",
    max_skips: Annotated[
        int, arg(help="the most skip connections in the normal cell of a supernet; -1 for no limit")
    ] = 2,
    seeds: Annotated[str, arg(help="of a comparison, with commas; of one search it is the recipe's: seed=1")] = "0,1,2",
    run: Annotated[Path | None, arg(help="folder of the search; runs/search_RECIPE by default")] = None,
    json: Json = False,
) -> None:
    """Search the cell of a network, train the network that is found, and draw the cell.

    A search that was interrupted goes on when the command is given again.
    """
    import train.recipes  # noqa: F401
    from train.architecture_search.search import METHODS, compare
    from train.architecture_search.search import search as search_one
    from train.recipe import get_recipe, override, recipe_name

    if "=" in recipe:
        raise ValueError(f"the recipe comes first: zoo search RECIPE {recipe}")
    name = recipe_name(recipe)
    wanted = override(get_recipe(name), settings)
    options = {"budget": budget, "trial_epochs": trial_epochs, "space": space}
    options["max_skips"] = None if max_skips == -1 else max_skips
    told = (lambda line: None) if json else (lambda line: print(line, flush=True))
    methods = list(METHODS) if method == "all" else method.split(",")
    if len(methods) == 1:
        folder = run or Path("runs") / f"search_{name}"
        report = search_one(wanted, folder, method=method, progress=not json, tell=told, **options)
        if json:
            return console.print_json(report)
        console.print_report({n: v for n, v in report.items() if n not in ("genotype", "found")})
        for kind, edges in report["genotype"].items():
            print(f"{kind}: " + ", ".join(f"{operation} from {source}" for operation, source in edges))
        print(f"\nkept in {report['found']}, for `zoo evaluate`, `zoo predict`, `zoo export`")
        print(f"the cell: {folder}/cell.png")
        return print(f'to train it otherwise: zoo train {name} "model_options.genotype=$(cat {folder}/genotype.json)"')
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(f"seeds are whole numbers with commas, such as 0,1,2; not {seeds!r}") from None
    folder = run or Path("runs") / f"search_{name}_compare"
    found = compare(wanted, folder, methods=methods, seeds=numbers, tell=told, progress=False, **options)
    if json:
        return console.print_json(found)
    shown = ("test_accuracy", "validation_accuracy", "architectures", "search_seconds", "skips", "parameters")
    rows = [{"method": row["method"], **{n: _spread(row, n) for n in shown if n in row}} for row in found["methods"]]
    console.print_table(rows, ("method", *shown))
    print(f"\neach of {len(numbers)} seeds: mean ± standard deviation; {folder}/compare.json")


def _spread(row: dict, name: str) -> str:
    digits = 4 if "accuracy" in name else 1
    sd = row[f"{name}_sd"]
    return f"{row[name]:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
