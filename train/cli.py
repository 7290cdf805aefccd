"""The command line: `zoo COMMAND`, or `python -m train COMMAND`. `zoo COMMAND --help` tells all."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from train import console, launch

Json = Annotated[bool, arg(help="print JSON instead of text")]
ModelOptions = Annotated[Positional[tuple[str, ...]], arg(metavar="OPTION=VALUE", help="options of the model")]
RunFolder = Annotated[Positional[Path], arg(metavar="RUN", help="a folder that `zoo train` made")]


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
        raise ValueError(f"no model matches {pattern!r}; `zoo list` shows all")
    console.print_table(rows, ("name", "parameters", "input", "paper"))


def card(
    name: Annotated[Positional[str], arg(metavar="NAME", help="a model of `zoo list`")],
    settings: ModelOptions = (),
    json: Json = False,
) -> None:
    """Show a model: options, layer table, parameters, FLOPs of one inference."""
    import zoo
    from zoo import summary

    entry = zoo.model_card(name)
    given = _model_options(settings)
    model = zoo.create_model(name, **given)
    x = entry.example()
    try:
        layers = summary.layers(model, x)
    except TypeError as error:
        raise ValueError(f"model {name!r} cannot be built with {', '.join(settings)}: {error}") from error
    total = summary.count_parameters(summary.abstract_variables(model, x)["params"])
    facts = {
        "name": name,
        "task": entry.task,
        "paper": entry.paper,
        "input": list(x.shape),
        "parameters": total,
        "flops": summary.flops(model, x),
        "options": {k: getattr(v, "__name__", v) for k, v in {**entry.options, **given}.items()},
        "weights_licence": entry.weights_licence,
    }
    if json:
        return console.print_json({**facts, "layers": [layer._asdict() for layer in layers]})
    for fact, value in facts.items():
        print(f"{fact:16}{value:,}" if isinstance(value, int) else f"{fact:16}{value}")
    print()
    console.print_table([layer._asdict() for layer in layers], ("path", "kind", "output_shape", "num_parameters"))


def recipes(
    name: Annotated[Positional[str], arg(metavar="NAME", help="show this one whole")] = "", json: Json = False
) -> None:
    """List the recipes, or show one: what it trains, its command, its time and what it reached."""
    import train.recipes  # noqa: F401
    from train.recipe import describe_recipe, get_recipe, list_recipes

    names = [name] if name else list_recipes()
    rows = [{"name": n, "about": describe_recipe(n), "settings": asdict(get_recipe(n))} for n in names]
    if json:
        return console.print_json(rows)
    for row in rows:
        print(f"{row['name']}\n    " + row["about"].replace("\n", "\n    ").rstrip() + "\n")
    if name:
        print(get_recipe(name).to_json())


def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a recipe of `zoo recipes`")] = "lenet5_digits",
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="NAME=VALUE", help="changes to it, such as epochs=3 model_options.dropout_rate=0.2"),
    ] = (),
    run: Annotated[Path | None, arg(help="folder of the run; runs/RECIPE by default")] = None,
    resume: Annotated[bool, arg(help="continue the run from its newest checkpoint")] = False,
    distributed: Annotated[bool, arg(help="run as one of several processes, see the environment below")] = False,
    json: Json = False,
) -> None:
    """Train a recipe.

    The order of the data and the global batch do not depend on the number of devices or processes. With --distributed,
    clusters that JAX knows (Slurm, Cloud TPU, Open MPI, Kubernetes) need nothing more; elsewhere set
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process.
    """
    if distributed:
        launch.join_processes()
    import train.recipes  # noqa: F401
    from train import run as runs
    from train.recipe import get_recipe, override

    folder = run or Path("runs") / recipe
    report = runs.train(override(get_recipe(recipe), settings), folder, resume=resume, progress=not json)
    if json:
        return console.print_json(report)
    console.print_report(report)
    if report:
        print(f"\nkept in {folder}, for `zoo evaluate`, `zoo predict` and `zoo export`")


def evaluate(
    run: RunFolder,
    split: Annotated[str, arg(help="train, validation or test")] = "test",
    classifier: Annotated[
        Path | None, arg(help="the run of a classifier, to judge the images that a generative run draws")
    ] = None,
    importance_samples: Annotated[int, arg(help="of the importance-weighted bound of a VAE; 0 for none")] = 0,
    json: Json = False,
) -> None:
    """Evaluate the best checkpoint of a run."""
    from train.inference import evaluate as evaluate_run
    from train.inference import likelihood_bound

    report = evaluate_run(run, split)
    if importance_samples:
        bound = likelihood_bound(run, split, samples=importance_samples)
        report[f"{split}_bound_with_{importance_samples}_samples"] = bound
    if classifier is not None:
        from train.fidelity import fidelity

        report |= fidelity(run, classifier, split)
    if json:
        return console.print_json(report)
    console.print_report(report)


def sample(
    run: RunFolder,
    n: Annotated[int, arg(help="number of images; for the two other kinds a square number")] = 64,
    out: Annotated[Path, arg(help="the picture to write, a PNG")] = Path("samples.png"),
    seed: Annotated[int, arg(help="the same seed draws the same images")] = 0,
    kind: Annotated[
        Literal["samples", "interpolation", "manifold"],
        arg(help="samples; ways between two samples, one a row; the plane of a VAE's latent space that varies most"),
    ] = "samples",
    json: Json = False,
) -> None:
    """Draw images from the best checkpoint of a VAE, a GAN or a diffusion model."""
    from train import pictures
    from train import sample as sampling

    side = math.isqrt(max(n, 0))
    if kind != "samples" and side**2 != n:
        raise ValueError(f"an {kind} of n images is a square: n is 64 or 225, say, not {n}")
    if kind == "samples":
        images = sampling.sample(run, n, seed)
    elif kind == "interpolation":
        images = sampling.interpolate(run, side, side, seed)
    else:
        images = sampling.manifold(run, side)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.grid(images, out)
    if json:
        return console.print_json({"file": str(out), "images": n, "kind": kind, "seed": seed})
    print(f"{n} images in {out}")


def generate(
    run: RunFolder,
    prompt: Annotated[str, arg(help="the text to go on from; by default the beginning of a line")] = "",
    length: Annotated[int, arg(help="characters to write")] = 500,
    temperature: Annotated[float, arg(help="below 1 the probable becomes more probable, above 1 less")] = 1.0,
    top_k: Annotated[int | None, arg(help="draw from so many most probable characters")] = None,
    top_p: Annotated[
        float | None, arg(help="draw from the fewest most probable characters that have this probability together")
    ] = None,
    greedy: Annotated[bool, arg(help="take the most probable character, and draw nothing")] = False,
    stop: Annotated[str, arg(help="characters, each of which ends the text")] = "",
    n: Annotated[int, arg(help="number of texts")] = 1,
    seed: Annotated[int, arg(help="the same seed writes the same texts")] = 0,
    json: Json = False,
) -> None:
    """Write text with the best checkpoint of a language model."""
    from train import generate as generation

    pieces = generation.write(
        generation.load(run),
        prompt,
        length,
        n=n,
        stop=stop,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        greedy=greedy,
    )
    if json or n > 1:
        texts = [prompt + "".join(parts) for parts in zip(*pieces, strict=True)]
        return console.print_json({"texts": texts, "seed": seed}) if json else print(f"\n{'—' * 40}\n".join(texts))
    print(prompt, end="")
    for (piece,) in pieces:
        print(piece, end="", flush=True)
    print()


def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help="folders that `zoo train` made")],
    metric: Annotated[str, arg(help="a column of their history.csv")] = "loss",
    out: Annotated[Path, arg(help="the picture to write, a PNG")] = Path("compare.png"),
    json: Json = False,
) -> None:
    """Draw how a metric went in several runs, in training and on the validation split."""
    from train import pictures
    from train.callbacks import read_history

    if not runs:
        raise ValueError("no run given: zoo compare RUN RUN…")
    histories = {str(run): read_history(run / "history.csv") for run in runs}
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.compare(histories, out, metric=metric)
    columns = (metric, f"validation_{metric}")
    last = [{"run": run, **{c: row[c] for c in columns if c in row}} for run, (*_, row) in histories.items()]
    if json:
        return console.print_json({"file": str(out), "runs": last})
    for row in last:
        console.print_report(row)
    print(f"curves in {out}")


def translate(
    run: RunFolder,
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT", help="what to translate")],
    beams: Annotated[int, arg(help="targets that are followed at a time; 1 is greedy decoding")] = 1,
    json: Json = False,
) -> None:
    """Translate texts with the best checkpoint of a run of the task seq2seq."""
    from train.translate import translate as translate_texts

    if not texts:
        raise ValueError('no text given: zoo translate RUN "TEXT"…')
    translations = translate_texts(run, texts, beams=beams)
    if json:
        return console.print_json([translation._asdict() for translation in translations])
    for translation in translations:
        print(f"{translation.text} ({translation.probability:.1%})")


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
    from train import pictures
    from train.preview import augmented
    from train.recipe import get_recipe, override

    images = augmented(override(get_recipe(recipe), settings), seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.grid(images, out)
    if json:
        return console.print_json(
            {"file": str(out), "images": images.shape[0], "draws": images.shape[1] - 1, "seed": seed}
        )
    print(f"{images.shape[0]} images and {images.shape[1] - 1} draws of each in {out}")


def convert(
    name: Annotated[Positional[str], arg(metavar="NAME", help="a model of `zoo list`")],
    source: Annotated[
        Positional[str],
        arg(metavar="FILE", help="weights of timm, torchvision or Keras: a file, a folder or a name on Hugging Face"),
    ],
    settings: ModelOptions = (),
    *,
    out: Annotated[Path, arg(help="the folder to write")],
    origin: Annotated[
        Literal["timm", "torchvision"] | None,
        arg(help="whose preprocessing the weights want, where their names do not tell"),
    ] = None,
    new_head: Annotated[bool, arg(help="leave the last layer out")] = False,
    json: Json = False,
) -> None:
    """Convert weights of others to a folder for `zoo predict`, `zoo export` and the field `weights` of a recipe."""
    from zoo import pretrained

    head: Literal["given", "new"] = "new" if new_head else "given"
    weights = pretrained.convert(name, source, out, origin=origin, head=head, **_model_options(settings))
    prepared = weights.preprocessing._asdict() if weights.preprocessing else {}
    facts = {"folder": str(out), "layout": weights.layout, "model_options": weights.model_options, **prepared}
    if json:
        return console.print_json(facts)
    console.print_report(facts)


def predict(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a folder that `zoo train` or `zoo convert` made")],
    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE", help="images")],
    invert: Annotated[bool, arg(help="the images are dark on light, the training data light on dark")] = False,
    json: Json = False,
) -> None:
    """Classify images with the best checkpoint of a run, or with converted weights: class and probability."""
    from train.inference import predict as predict_files

    if not files:
        raise ValueError("no image given: zoo predict RUN FILE…")
    predictions = predict_files(run, files, invert=invert)
    if json:
        return console.print_json([prediction._asdict() for prediction in predictions])
    for prediction in predictions:
        print(f"{prediction.file}: {prediction.label} ({prediction.probability:.1%})")


def export(run: RunFolder, out: Annotated[Path, arg(help="the file to write")], json: Json = False) -> None:
    """Export the best checkpoint of a run as StableHLO for cpu, cuda and tpu.

    The file runs where only JAX is installed: jax.export.deserialize(open(FILE, "rb").read()).call(images).
    """
    from train.export import export as export_run

    facts = export_run(run, out)
    if json:
        return console.print_json(facts)
    console.print_report(facts)


def bench(
    name: Annotated[Positional[str], arg(metavar="NAME", help="a model of `zoo list`")],
    settings: ModelOptions = (),
    batch_size: Annotated[int, arg(help="examples in a step")] = 32,
    dtype: Annotated[str, arg(help="float32, bfloat16 or float16")] = "float32",
    plan: Annotated[str, arg(help="jit, pmap or fsdp")] = "jit",
    seconds: Annotated[float, arg(help="how long to measure each of train and inference")] = 5.0,
    compare: Annotated[Literal["torch"] | None, arg(help="measure PyTorch beside it, turn by turn, on a CPU")] = None,
    image_size: Annotated[int | None, arg(help="height and width of the images")] = None,
    json: Json = False,
) -> None:
    """Measure training and inference of a model: step time, examples/s, compile time, memory, FLOP/s, utilisation."""
    from train.bench import bench as bench_model

    results = bench_model(
        name,
        batch_size=batch_size,
        dtype=dtype,
        plan=plan,
        seconds=seconds,
        compare=compare,
        image_size=image_size,
        **_model_options(settings),
    )
    if json:
        return console.print_json(results)
    console.print_report(results)


def _model_options(settings: tuple[str, ...]) -> dict[str, Any]:
    from train.recipe import literal

    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ValueError(f"an option has the form OPTION=VALUE, such as num_classes=10; not {wrong[0]!r}")
    return {option: literal(value) for option, _, value in (setting.partition("=") for setting in settings)}


COMMANDS = {
    "list": list_,
    "card": card,
    "recipes": recipes,
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "generate": generate,
    "compare": compare,
    "translate": translate,
    "augment": augment,
    "convert": convert,
    "predict": predict,
    "export": export,
    "bench": bench,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Mistakes of the user end in one line on stderr and exit status 1; ZOO_DEBUG=1 shows where."""
    if arguments is None:
        launch.keep_memory()
    debug = bool(os.environ.get("ZOO_DEBUG"))
    if not debug:
        # What fails in a thread of Orbax or TensorBoard is raised again where it is waited for: tell it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        threading.excepthook = lambda args: None
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=arguments,
            prog="zoo",
            description="A functional model zoo for JAX and Flax: train, evaluate, use and measure its models.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
        )
    except BrokenPipeError:  # zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("\nzoo: interrupted; `zoo train … --resume` continues from the newest checkpoint")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        sys.exit(f"zoo: error: {error}")


if __name__ == "__main__":
    main()
