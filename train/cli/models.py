"""Commands on models: list, convert, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json, ModelOptions, model_options


def list_(
    pattern: Annotated[Positional[str], arg(metavar="PATTERN", help='wildcard, such as "resnet*"')] = "*",
    json: Json = False,
) -> None:
    """List the models: name, parameters, input."""
    import zoo

    cards = [zoo.model_card(name) for name in zoo.list_models(pattern)]
    rows = [
        {"name": c.name, "task": c.task, "parameters": c.num_parameters, "input": list(c.input_shape), "paper": c.paper}
        for c in cards
    ]
    if json:
        return console.print_json(rows)
    if not rows:
        raise ValueError(f'no model matches {pattern!r}; `zoo list` shows all, `zoo list "*{pattern}*"` those like it')
    console.print_table(rows, ("name", "parameters", "input", "paper"))


def convert(
    name: Annotated[Positional[str], arg(metavar="NAME", help="a model of `zoo list`")],
    source: Annotated[
        Positional[str],
        arg(
            metavar="FILE",
            help="weights of timm, torchvision or Keras: a file, a folder or a name on Hugging Face; by default what "
            "`zoo weights` has for this model",
        ),
    ] = "",
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="OPTION=VALUE", help="options of the model; channels; image_size, crop, mean, std, interpolation"),
    ] = (),
    *,
    out: Annotated[Path, arg(help="the folder to write")],
    origin: Annotated[
        Literal["timm", "torchvision"] | None,
        arg(help="whose preprocessing the weights want, where their names do not tell"),
    ] = None,
    new_head: Annotated[bool, arg(help="leave the last layer out")] = False,
    entry: Annotated[
        str | None, arg(help='which weights of a checkpoint of PyTorch, where it holds several: "state_dict_ema"')
    ] = None,
    allow_faults: Annotated[bool, arg(help="save also weights with NaN, infinity or negative variances")] = False,
    json: Json = False,
) -> None:
    """Convert weights of others to a folder for `zoo predict`, `zoo export` and the field `weights` of a recipe."""
    from zoo import pretrained

    if "=" in source and not Path(source).exists():
        source, settings = "", (source, *settings)
    head: Literal["given", "new"] = "new" if new_head else "given"
    weights = pretrained.convert(
        name,
        source or None,
        out,
        origin=origin,
        head=head,
        entry=entry,
        allow_faults=allow_faults,
        **model_options(settings),
    )
    prepared = weights.preprocessing._asdict() if weights.preprocessing else {}
    facts = {"folder": str(out), "layout": weights.layout, "model_options": weights.model_options, **prepared}
    if json:
        return console.print_json(facts)
    console.print_report(facts)


def bench(
    name: Annotated[Positional[str], arg(metavar="NAME", help="a model of `zoo list`; none for --suite")] = "",
    settings: ModelOptions = (),
    batch_size: Annotated[int, arg(help="examples in a step")] = 32,
    dtype: Annotated[str, arg(help="float32, bfloat16 or float16")] = "float32",
    plan: Annotated[str, arg(help="jit, pmap or fsdp")] = "jit",
    seconds: Annotated[float, arg(help="how long to measure each part, or each row of the suite")] = 5.0,
    compare: Annotated[
        str | None,
        arg(
            metavar="LIBRARIES",
            help="torch, torch-compile, keras, tensorflow, or several with commas: measure them beside it, turn by "
            "turn, on a CPU; the suite takes all that are installed",
        ),
    ] = None,
    parts: Annotated[
        str,
        arg(help="what to measure, with commas: inference, train, generate (200 tokens) or epoch (digits, in `fit`)"),
    ] = "inference,train",
    image_size: Annotated[int | None, arg(help="height and width of the images")] = None,
    length: Annotated[int | None, arg(help="tokens or steps of an example")] = None,
    suite: Annotated[bool, arg(help="measure the models of README's table of speed in place of one")] = False,
    rows: Annotated[str, arg(metavar="ROWS", help="rows of the suite, with commas; all where there are none")] = "",
    out: Annotated[
        Path, arg(help="the folder for bench.json, bench.md and bench.png of the suite; rows that are there are kept")
    ] = Path("bench"),
    json: Json = False,
) -> None:
    """Measure training and inference of a model: step time, examples/s, compile time, memory, FLOP/s, utilisation."""
    if suite == bool(name):
        raise ValueError(
            "give a model to measure, or --suite" if not name else f"--suite takes no model, and so no {name!r}"
        )
    if suite:
        from train.measure import peers
        from train.measure.suite import TABLE, run_suite

        chosen = tuple(peers.PEERS) if compare is None else _names(compare)
        results = run_suite(out, rows=_names(rows), compare=chosen, seconds=seconds)
        return console.print_json(results) if json else print((out / TABLE).read_text(), end="")
    from train.measure.bench import bench as bench_model

    results = bench_model(
        name,
        batch_size=batch_size,
        dtype=dtype,
        plan=plan,
        seconds=seconds,
        compare=_names(compare or ""),
        parts=_names(parts),
        image_size=image_size,
        length=length,
        **model_options(settings),
    )
    if json:
        return console.print_json(results)
    console.print_report(results)


def _names(words: str) -> list[str]:
    """The names between the commas."""
    return [word.strip() for word in words.split(",") if word.strip()]
