"""What an evaluation leaves in a folder: pictures, and files for other programs (guide, section 12.2)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.scaling import to_unit
from train.files import as_json, write_whole
from train.inference.adaptation import adapted_curves
from train.inference.evaluation import Evaluation
from train.inference.loading import Run
from train.inference.scores import ClassPredictions, Estimates, class_report, confusion_matrix, top_label_bins
from train.measure import evaluation_pictures, flow_pictures, pictures

MOST_COLUMNS = 100
"""With more classes than that, `predictions.csv` has no column for the probability of each."""

MOST_MISTAKES = 20
"""The most pictures of mistakes."""


def write(run: Run, split: str, evaluation: Evaluation, folder: str | Path, *, title: str = "") -> list[Path]:
    """Writes all that is to be seen of an evaluation.

    Of any run `evaluation.json`, its report. Of a classifier:

    - `classes.csv`, the scores of each class; `predictions.csv`, a line an example, numbered from 0 as in the split;
    - `confusion_matrix.png`, `roc.png`, `precision_recall.png` and `reliability.png`;
    - `mistakes.png`, of images those whose right class was found the least probable, where there are any.

    Of a regression `predictions.csv`, `predicted.png` and `residuals.png`. Of a few-shot regression of one number
    `adaptation.png`, some tasks before and after the inner steps. Of a neural ODE in the plane `phase_portrait.png`, of
    a latent ODE `extrapolation.png`.

    Args:
      run: with its data.
      split: what was evaluated.
      evaluation: what `train.inference.examine` found.
      folder: made if it is not there; files of these names are replaced.
      title: of the pictures.

    Returns:
      The files.

    Raises:
      OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "evaluation.json", as_json(evaluation.report) + "\n")
    found = evaluation.predictions
    names = ["evaluation.json"]
    if isinstance(found, ClassPredictions):
        names += _of_classes(run, split, found, folder, title)
    elif isinstance(found, Estimates):
        _write_table(folder / "predictions.csv", *_estimate_rows(found))
        evaluation_pictures.predicted(found, folder / "predicted.png", title=title)
        evaluation_pictures.residuals(found, folder / "residuals.png", title=title)
        names += ["predictions.csv", "predicted.png", "residuals.png"]
    elif (waves := adapted_curves(run, split)) is not None:
        pictures.adaptation(waves, folder / "adaptation.png", title=title)
        names.append("adaptation.png")
    if flow_pictures.shows_phase_portrait(run):
        flow_pictures.phase_portrait(run, folder / "phase_portrait.png", title=title)
        names.append("phase_portrait.png")
    if run.recipe.task == "latent_ode":
        flow_pictures.extrapolation(run, split, folder / "extrapolation.png", title=title)
        names.append("extrapolation.png")
    return [folder / name for name in names]


def _of_classes(run: Run, split: str, found: ClassPredictions, folder: Path, title: str) -> list[str]:
    scores = class_report(found)
    columns = list(next(iter(scores.values())))
    lines = ([name, *(row.get(column, "") for column in columns)] for name, row in scores.items())
    _write_table(folder / "classes.csv", ["class", *columns], lines)
    _write_table(folder / "predictions.csv", *_prediction_rows(found))
    pictures.confusion_matrix(confusion_matrix(found), found.classes, folder / "confusion_matrix.png", title=title)
    evaluation_pictures.roc(found, folder / "roc.png", title=title)
    evaluation_pictures.precision_recall(found, folder / "precision_recall.png", title=title)
    evaluation_pictures.reliability(*top_label_bins(found), folder / "reliability.png", title=title)
    names = ["classes.csv", "predictions.csv", "confusion_matrix.png", "roc.png", "precision_recall.png"]
    names.append("reliability.png")
    wrong = worst_mistakes(found)
    if (images := _images(run, split, wrong)) is None:
        (folder / "mistakes.png").unlink(missing_ok=True)  # of an evaluation before this one
        return names
    evaluation_pictures.mistakes(images, found, wrong, folder / "mistakes.png", title=title)
    return [*names, "mistakes.png"]


def worst_mistakes(found: ClassPredictions, most: int = MOST_MISTAKES) -> np.ndarray:
    """Examples that were taken for a wrong class, those first whose right class has the least probability."""
    wrong = np.flatnonzero(found.predicted != found.labels)
    return wrong[np.argsort(found.of_label[wrong], kind="stable")][:most]


def _images(run: Run, split: str, rows: np.ndarray) -> np.ndarray | None:
    """The images of these examples, in [0, 1]; None where there are none."""
    if not len(rows):
        return None
    images = np.asarray(run.dataset.splits[split][rows].get("image", ()))
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        return None
    images = np.asarray(to_unit(images), np.float32)
    least, most = images.min(), images.max()
    # Pixels that were standardized before are brought into the range that can be shown.
    return images if least >= 0 and most <= 1 else (images - least) / (most - least)


def _prediction_rows(found: ClassPredictions) -> tuple[list[str], Iterable[Sequence[Any]]]:
    each = len(found.classes) <= MOST_COLUMNS
    head = ["example", "label", "predicted", "probability", "probability_of_label"]
    head += [f"probability_of_{name}" for name in found.classes] if each else []
    of_predicted = found.probabilities[np.arange(len(found.labels)), found.predicted]
    rows = (
        [
            index,
            found.classes[label],
            found.classes[told],
            float(of_predicted[index]),
            float(found.of_label[index]),
            *(found.probabilities[index].tolist() if each else ()),
        ]
        for index, (label, told) in enumerate(zip(found.labels, found.predicted, strict=True))
    )
    return head, rows


def _estimate_rows(found: Estimates) -> tuple[list[str], Iterable[Sequence[Any]]]:
    head = ["example", *found.names, *(f"predicted {name}" for name in found.names)]
    pairs = zip(found.targets.tolist(), found.predictions.tolist(), strict=True)
    return head, ([index, *wanted, *told] for index, (wanted, told) in enumerate(pairs))


def _write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
