"""Commands that use a trained run: evaluate, predict, adapt, export, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from train.cli import console
from train.cli.arguments import Json, RunFolder


def evaluate(
    run: RunFolder,
    settings: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="NAME=VALUE", help="of a few-shot run, other tasks to judge it by, such as data_options.shots=5"),
    ] = (),
    split: Annotated[str, arg(help="train, validation or test")] = "test",
    classifier: Annotated[
        Path | None, arg(help="the run of a classifier, to judge the images that a generative run draws")
    ] = None,
    out: Annotated[
        Path | None, arg(help="a folder to write pictures into, and the scores and predictions as CSV and JSON")
    ] = None,
    importance_samples: Annotated[int, arg(help="of the importance-weighted bound of a VAE; 0 for none")] = 0,
    json: Json = False,
) -> None:
    """Evaluate the best checkpoint of a run; a few-shot learner on 600 tasks, with 95 % confidence intervals.

    `loss` is what training makes small, with label smoothing where the recipe has it; `log_loss` is the cross-entropy
    without it.

    With --out also: confusion matrix, ROC and precision-recall curves, reliability diagram and worst mistakes of a
    classifier; true against predicted numbers and residuals of a regression.
    """
    from train.files import require_writable
    from train.inference.evaluation import examine, likelihood_bound, load_with_data

    if out is not None:
        require_writable(out)
    loaded = load_with_data(run, settings)
    evaluation = examine(loaded, split)
    report = dict(evaluation.report)
    if importance_samples:
        bound = likelihood_bound(run, split, samples=importance_samples)
        report[f"{split}_bound_with_{importance_samples}_samples"] = bound
    if classifier is not None:
        from train.inference.fidelity import fidelity

        report |= fidelity(run, classifier, split)
    files: list[Path] = []
    if out is not None:
        from train.measure.evaluation import write

        title = f"{run.resolve().name}: {split}"
        files = write(loaded, split, evaluation._replace(report=report), out, title=title)
    if json:
        return console.print_json(report)
    console.print_report(report)
    if files:
        print(f"\nin {console.printable(str(out))}: {', '.join(file.name for file in files)}")


def predict(
    run: Annotated[
        Positional[Path],
        arg(
            metavar="RUN",
            help="a folder that `zoo train` or `zoo convert` made, a model of `zoo weights`, or USER/NAME on the hub",
        ),
    ],
    files: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            metavar="FILE",
            help="images, folders of them or wildcards; of a table or of texts CSV or text files; of a graph numbers "
            "of nodes, or pairs such as 3-17; of many graphs a folder or .npz file of each",
        ),
    ] = (),
    text: Annotated[
        UseAppendAction[tuple[str, ...]], arg(help="for a classifier of texts: a text; as often as needed")
    ] = (),
    top: Annotated[int, arg(help="how many of the most probable classes to print")] = 1,
    invert: Annotated[bool, arg(help="the images are dark on light, the training data light on dark")] = False,
    json: Json = False,
) -> None:
    """Classify images, texts, lines of a CSV file, nodes of a graph or graphs, with the best checkpoint of a run.

    Of a regression the numbers are printed that it tells.
    """
    from train.inference.prediction import Estimate
    from train.inference.prediction import predict as predict_files
    from train.publishing.uses import require_predictions

    require_predictions(run)
    if not files and not text:
        raise ValueError(
            "no file given: zoo predict RUN FILE…, images or, for the run of a table or of texts, CSV files; texts "
            "also as --text TEXT; of a graph zoo predict RUN NODE…"
        )
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}")
    predictions = predict_files(run, files, texts=text, invert=invert)
    if top > 1 and isinstance(predictions[0], Estimate):
        raise ValueError("--top chooses among classes, and this run tells numbers; leave it out")
    if json:
        return console.print_json([prediction._asdict() for prediction in predictions])
    for each in predictions:
        if isinstance(each, Estimate):
            print(f"{console.printable(each.file)}: {', '.join(f'{value:.6g}' for value in each.values)}")
        else:
            shares = ", ".join(f"{label} ({share:.1%})" for label, share in each.top(top))
            print(console.printable(f"{each.file}: {shares}"))


def adapt(
    run: RunFolder,
    support: Annotated[Path, arg(metavar="FOLDER", help="a folder for each class, with a few pictures in each")],
    query: Annotated[
        UseAppendAction[tuple[Path, ...]],
        arg(metavar="FILE", help="pictures to classify, folders of them or wildcards"),
    ],
    steps: Annotated[int | None, arg(help="inner steps; by default those of the run's evaluation")] = None,
    transductive: Annotated[
        bool | None, arg(help="whether batch norm sees all queries together; by default as the run was trained")
    ] = None,
    top: Annotated[int | None, arg(help="how many of the most probable classes to print; all by default")] = None,
    json: Json = False,
) -> None:
    """Teach a few-shot learner (MAML, ANIL, Reptile, prototypical networks) classes of your own, and classify pictures.

    Nothing is written. --query may be given several times.
    """
    from train.inference.adaptation import adapt as adapt_run

    if top is not None and top < 1:
        raise ValueError(f"--top must be at least 1, not {top}")
    found = adapt_run(run, support, query, steps=steps, transductive=transductive)
    if json:
        return console.print_json([prediction._asdict() for prediction in found])
    for each in found:
        shares = ", ".join(f"{label} ({share:.1%})" for label, share in each.top(top or len(each.probabilities)))
        print(console.printable(f"{each.file}: {shares}"))


def export(run: RunFolder, out: Annotated[Path, arg(help="the file to write")], json: Json = False) -> None:
    """Export the best checkpoint of a classifier of images as StableHLO for cpu, cuda and tpu.

    The file runs where only JAX is installed: jax.export.deserialize(open(FILE, "rb").read()).call(images).
    """
    from train.inference.export import export as export_run
    from train.publishing.uses import require_export

    require_export(run)
    facts = export_run(run, out)
    if json:
        return console.print_json(facts)
    console.print_report(facts)


def demo(
    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            metavar="RUN",
            help="what to show; by default the runs in runs/ that there is a panel for, else models that ship",
        ),
    ] = (),
    port: Annotated[int, arg(help="of the page; 0 for any that is free")] = 8000,
) -> None:
    """Serve a page on this machine on which runs are tried: draw digits, walk a latent plane, write, translate.

    Draw with a classifier of `digits` or `mnist`; walk with a VAE; write with a language model of characters; translate
    with a run of the task seq2seq. Ctrl-C ends it. Only this machine can see the page.
    """
    from train.demo import panels, serve

    if not 0 <= port < 2**16:
        raise ValueError(f"--port is from 0 to {2**16 - 1}, not {port}")
    found = [panels.panel(run) for run in runs] if runs else panels.of_folder(Path("runs"))
    serve(found, port)
