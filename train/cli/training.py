"""Commands on recipes and trainings: recipes, train, compare, augment."""

from __future__ import annotations

import fnmatch
import glob
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json, picture_file


def recipes(
    name: Annotated[
        Positional[str], arg(metavar="NAME", help='show this one whole; or a wildcard, such as "mlp*"')
    ] = "",
    json: Json = False,
) -> None:
    """List the recipes, or show one: what it trains, its command, its time and what it reached."""
    import train.recipes  # noqa: F401
    from train.publishing.records import in_words, record_of
    from train.recipe import describe_recipe, get_recipe, list_recipes

    whole = bool(name) and not glob.has_magic(name)
    names = [name] if whole else fnmatch.filter(list_recipes(), name or "*")
    if not names:
        raise ValueError(f"no recipe matches {name!r}; `zoo recipes` shows all")
    rows = [
        {"name": n, "about": describe_recipe(n), "settings": asdict(get_recipe(n)), "record": record_of(n)}
        for n in names
    ]
    if json:
        return console.print_json(rows)
    if not whole:
        table = [{**row["settings"], "name": row["name"], "about": row["about"].partition("\n")[0]} for row in rows]
        return console.print_table(table, ("name", "model", "data", "about"))
    for row in rows:
        print(f"{row['name']}\n    " + row["about"].replace("\n", "\n    ").rstrip() + "\n")
        if row["record"] is not None:
            print(f"    Recorded: {in_words(row['settings']['task'], row['record'])}.\n")
    print(get_recipe(name).to_json())


def train(
    recipe: Annotated[
        Positional[str | None],
        arg(
            metavar="RECIPE",
            help="a recipe of `zoo recipes`, my_recipe.py, or my_module:name; lenet5_digits by default",
        ),
    ] = None,
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="NAME=VALUE", help="changes to it, such as epochs=3 model_options.dropout_rate=0.2"),
    ] = (),
    run: Annotated[Path | None, arg(help="folder of the run; runs/RECIPE by default")] = None,
    resume: Annotated[
        bool,
        arg(
            help="continue the run from its newest checkpoint, with its own settings; begin it where there is none "
            "yet; with epochs=N go on from its end"
        ),
    ] = False,
    distributed: Annotated[bool, arg(help="run as one of several processes, see above")] = False,
    join_timeout: Annotated[float, arg(help="seconds that --distributed waits for the other processes")] = 300.0,
    json: Json = False,
) -> None:
    """Train a recipe.

    The order of the data and the global batch do not depend on the number of devices or processes. With --distributed,
    clusters that JAX knows (Slurm, Cloud TPU, Open MPI, Kubernetes) need nothing more; elsewhere set
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process.
    """
    import train.recipes  # noqa: F401
    from train.loop.fitting import InterruptedTraining
    from train.publishing.uses import examples, uses
    from train.recipe import get_recipe, override, recipe_name
    from train.runs import run as runs
    from zoo.checkpoint import saved_meta

    recipe, settings = _recipe_and_settings((*([] if recipe is None else [recipe]), *settings))
    name = recipe_name(recipe or "lenet5_digits")
    folder = run or Path("runs") / name
    wanted = override(get_recipe(name), settings)
    if resume and (folder / "recipe.json").is_file():
        wanted = runs.continued(folder, settings, wanted if recipe else None)
    try:
        report = runs.train(wanted, folder, resume=resume, progress=not json)
    except InterruptedTraining as interruption:  # by SIGTERM: what was asked for is done
        advice = shlex.join(["zoo", "train", recipe or name, "--run", str(folder), "--resume"])
        if json:
            return console.print_json({"interrupted_at_step": interruption.step, "resume": advice})
        return print(f"{interruption}: `{advice}`")
    if json:
        return console.print_json(report)
    console.print_report(report)
    if report:
        such_as = "".join(f"; such as\n{line}" for line in examples(wanted, saved_meta(folder), str(folder))[:1])
        print(f"\nkept in {folder}, for {', '.join(f'`zoo {use}`' for use in uses(wanted, folder))}{such_as}")


def _recipe_and_settings(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The one word that is no setting, wherever it stands, and the settings."""
    names = [word for word in words if "=" not in word]
    if any(word == "=" or word.endswith("=") or word.startswith("=") for word in words) and len(names) > 1:
        raise ValueError("a setting has no spaces around its =, such as epochs=3")
    for name in names:
        kind, _, path = name.partition(":")
        if kind in ("csv", "folder", "npz", "text", "texts") and Path(path).exists():
            raise ValueError(f"{name} is no recipe; data of your own are a setting: data={name}")
    if len(names) > 1:
        raise ValueError(f"one recipe at a time, with settings such as epochs=3; not {' and '.join(map(repr, names))}")
    return (names[0] if names else None), tuple(word for word in words if "=" in word)


def compare(
    words: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="RUN | RECIPE NAME=VALUE,VALUE",
            help="folders that `zoo train` made; or a recipe with settings of which one or more have several values, "
            "such as optimizer=sgd,adam seed=0,1,2; or a comparison, see above",
        ),
    ],
    metric: Annotated[
        str, arg(help="a column of their history.csv; by default the loss, of a recipe that tells classes accuracy")
    ] = "",
    out: Annotated[
        Path | None, arg(help="the picture to write, a PNG; compare.png, of a recipe in its folder, by default")
    ] = None,
    folder: Annotated[
        Path | None, arg(help="where the runs of a recipe and their table go; runs/compare_RECIPE by default")
    ] = None,
    json: Json = False,
) -> None:
    """Draw how a metric went in several runs; or train variants of a recipe and compare them.

    Of a recipe, each combination of the values is trained in a run folder; runs that differ by their seed alone are one
    variant, whose mean is drawn. The same command again goes on where it was interrupted. Comparisons by name:
    `optimizers` (guide, section 3.2), `regularization` and `regularization_cnn` (section 4).
    """
    if out is not None:
        out = picture_file(out)
    settings = [word for word in words if "=" in word and not Path(word).is_dir()]
    names = [word for word in words if word not in settings]
    if settings or (len(names) == 1 and not Path(names[0]).is_dir() and _is_comparison(names[0])):
        return _compare_variants(names, settings, metric, out, folder, json)
    if folder is not None:
        raise ValueError("--folder is for the runs of a recipe: zoo compare RECIPE NAME=VALUE,VALUE --folder FOLDER")
    _compare_runs([Path(name) for name in names], metric or "loss", out or Path("compare.png"), json)


def _is_comparison(name: str) -> bool:
    import train.recipes  # noqa: F401
    from train.runs.comparison import list_comparisons

    return name in list_comparisons()


def _compare_variants(
    names: list[str], settings: list[str], metric: str, out: Path | None, folder: Path | None, json: bool
) -> None:
    import train.recipes  # noqa: F401
    from train.recipe import get_recipe, override, recipe_name
    from train.runs import comparison
    from train.settings import literal

    if len(names) != 1:
        raise ValueError(f"settings are of one recipe or comparison; not of {' and '.join(map(repr, names)) or 'none'}")
    seeds = [setting for setting in settings if setting.startswith("seed=") and "," in setting]
    same, variants = comparison.variants_of([setting for setting in settings if setting not in seeds])
    base, called = names[0], names[0]
    if _is_comparison(base):
        known = comparison.get_comparison(base)
        base, same, metric = known.recipe, [*known.settings, *same], metric or known.metric
        variants = {
            ", ".join(filter(None, (label, more))): [*of, *extra]
            for label, of in known.variants.items()
            for more, extra in variants.items()
        }
    else:
        called = recipe_name(base)
    if len(variants) < 2:
        raise ValueError(
            f"there is nothing to compare: give a setting of {called} several values, such as optimizer=sgd,adam"
        )
    folder = folder or Path("runs") / f"compare_{called}"
    found = comparison.compare(
        override(get_recipe(base), same),
        variants,
        folder,
        seeds=[literal(seed) for setting in seeds for seed in setting.removeprefix("seed=").split(",")],
        metric=metric,
        picture=out,
        title=called,
        progress=not json,
        tell=lambda line: None if json else print(line, flush=True),
    )
    if json:
        return console.print_json(found)
    rows = [{**row, "runs": len(row["runs"])} for row in found["variants"]]
    hidden = ("settings", "ended_early")
    columns = tuple(dict.fromkeys(name for row in rows for name in row if name not in hidden))
    table = [
        {name: f"{row[name]:.4g}" if isinstance(row.get(name), float) else row.get(name, "–") for name in columns}
        for row in rows
    ]
    console.print_table(table, columns)
    print(f"\ncurves in {found['picture']}, figures in {folder / 'compare.csv'} and {folder / 'compare.json'}")


def _compare_runs(runs: list[Path], metric: str, out: Path, json: bool) -> None:
    from train.loop.callbacks import read_history
    from train.measure import pictures
    from zoo.published import find

    if not runs:
        raise ValueError("no run given: zoo compare RUN RUN…, or zoo compare RECIPE NAME=VALUE,VALUE")
    histories = {str(run): read_history(find(run) / "history.csv") for run in runs}
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.compare(histories, out, metric=metric)
    columns = (metric, f"validation_{metric}")
    last = [{"run": run, **{c: row[c] for c in columns if c in row}} for run, (*_, row) in histories.items()]
    if json:
        return console.print_json({"file": str(out), "runs": last})
    for row in last:
        console.print_report(row)
    print(f"curves in {out}")


def augment(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a recipe of `zoo recipes`")],
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="NAME=VALUE", help="changes to it, such as augmentation=guide augmentation_options.rotation=30"),
    ] = (),
    out: Annotated[Path, arg(help="the picture to write, a PNG")] = Path("augmentation.png"),
    seed: Annotated[int, arg(help="the same seed draws the same changes")] = 0,
    json: Json = False,
) -> None:
    """Draw what the augmentation of a recipe makes of its images: each row an image, first as it is."""
    import train.recipes  # noqa: F401
    from train.measure import pictures
    from train.recipe import get_recipe, override
    from train.runs.preview import augmented

    out = picture_file(out)
    images = augmented(override(get_recipe(recipe), settings), seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.grid(images, out)
    if json:
        return console.print_json(
            {"file": str(out), "images": images.shape[0], "draws": images.shape[1] - 1, "seed": seed}
        )
    print(f"{images.shape[0]} images and {images.shape[1] - 1} draws of each in {out}")
