"""Pictures: files that open, of a plausible size, with ink where there is something to show."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from train.measure import pictures


def opened(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def has_color(pixels, color):
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool(np.any(np.all(np.abs(pixels - wanted) < 12, axis=-1)))


def history(length, names=("loss", "accuracy"), validation=True):
    rng = np.random.default_rng(0)
    columns = [*names, *(f"validation_{name}" for name in names if validation)]
    return [
        {"step": 9.0 * (i + 1), "epoch": i + 1.0, **{c: float(rng.uniform()) for c in columns}, "seconds": i * 2.0}
        for i in range(length)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 50])
@pytest.mark.parametrize("validation", [False, True])
def test_curves(tmp_path, length, validation):
    path = tmp_path / "curves.png"
    pictures.curves(history(length, validation=validation), path, title="mlp_digits")
    pixels = opened(path)
    assert pixels.shape == (432, 1200, 3), "two metrics side by side"
    for half in (pixels[:, :600], pixels[:, 600:]):
        assert has_color(half, "#2a6fbb")
        assert has_color(half, "#d9772b") == validation


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 3), (5, 2, 3)])
def test_curves_have_a_panel_for_each_metric(tmp_path, count, rows, columns):
    pictures.curves(history(3, [f"m{index}" for index in range(count)]), tmp_path / "curves.png")
    assert opened(tmp_path / "curves.png").shape == (432 * rows, 600 * columns, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$5", "a$b$c", "x_1", "\\frac", "line\nbreak", "quote'\"", "\x1b[31m", "é"])
def test_names_are_drawn_as_they_stand(tmp_path, name):
    counts = np.array([[3, 1], [0, 2]])
    pictures.confusion_matrix(counts, [name, "b"], tmp_path / "a.png", title=f"{name}: test")
    pictures.curves(history(2), tmp_path / "b.png", title=name)
    pictures.compare({name: history(2)}, tmp_path / "c.png")
    for file in "abc":
        assert has_color(opened(tmp_path / f"{file}.png"), {"a": "#08306b", "b": "#2a6fbb", "c": "#1f77b4"}[file])


def test_curves_with_what_is_no_number(tmp_path):
    rows = history(3)
    rows[1]["validation_loss"] = float("nan")
    rows[2]["loss"] = float("inf")
    pictures.curves(rows, tmp_path / "curves.png")
    assert has_color(opened(tmp_path / "curves.png"), "#2a6fbb")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3, 10, 20, 21, 40])
def test_confusion_matrix(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 2, (classes, classes)) + 2000 * np.eye(classes, dtype=int)
    path = tmp_path / "confusion.png"
    pictures.confusion_matrix(counts, [str(i) for i in range(classes)], path, title="run: test")
    pixels = opened(path)
    assert 480 <= pixels.shape[0] == pixels.shape[1] <= 1680
    assert has_color(pixels, "#08306b"), "the diagonal is dark"


def test_shade_is_the_share_of_the_actual_class(tmp_path):
    """A class of two examples, both right, is as dark as one of two hundred; rows are the actual classes."""
    path = tmp_path / "confusion.png"
    pictures.confusion_matrix(np.array([[2, 0], [150, 50]]), ["a", "b"], path)
    pixels = opened(path)
    dark = np.all(np.abs(pixels - [8, 48, 107]) < 6, axis=-1)
    rows, columns = np.nonzero(dark)
    middle = pixels.shape[0] / 2
    assert rows.mean() < middle, "the first row is the upper one"
    assert columns.mean() < middle
    half = np.all(np.abs(pixels - [208, 225, 242]) < 12, axis=-1)  # a quarter of the way from white to dark
    rows, columns = np.nonzero(half)
    assert rows.mean() > middle
    assert columns.mean() > middle


def test_a_class_without_examples(tmp_path):
    pictures.confusion_matrix(np.array([[3, 0], [0, 0]]), ["a", "b"], tmp_path / "confusion.png")
    opened(tmp_path / "confusion.png")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10, 40])
@pytest.mark.parametrize("length", [4, 30, 120])
def test_long_names_of_classes(tmp_path, classes, length):
    names = [f"{'long name of a class ' * 9}"[: length - 2] + f"{i:02}" for i in range(classes)]
    path = tmp_path / "confusion.png"
    pictures.confusion_matrix(np.eye(classes, dtype=int) * 7, names, path, title="run: test")
    pixels = opened(path)
    dark = np.all(np.abs(pixels - [8, 48, 107]) < 6, axis=-1)
    assert dark.mean() > 0.002, "the matrix itself is still to be seen"


def test_grid_of_rows_and_columns(tmp_path):
    """Every image in its place, enlarged, with a line after it."""
    images = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1, 1, 1) * np.ones((2, 3, 28, 14, 1), np.float32)
    pictures.grid(images, tmp_path / "grid.png")
    pixels = opened(tmp_path / "grid.png")
    assert pixels.shape == (2 * (2 * 28 + 2), 3 * (2 * 14 + 2), 3), "a height of 28 is enlarged twice"
    for row, column in np.ndindex(2, 3):
        tile = pixels[row * 58 : row * 58 + 56, column * 30 : column * 30 + 28]
        assert np.all(tile == np.round(255 * images[row, column, 0, 0, 0]))
    assert np.all(pixels[56:58] == 64)


def test_grid_of_a_number_that_is_no_square(tmp_path):
    """Five images in three columns; colours stay."""
    images = np.zeros((5, 60, 60, 3), np.float32)
    images[..., 2] = 1
    pictures.grid(images, tmp_path / "grid.png")
    pixels = opened(tmp_path / "grid.png")
    assert pixels.shape == (2 * 61, 3 * 61, 3)
    assert np.all(pixels[61:121, 61:121] == (0, 0, 255))
    assert not np.any(pixels[61:121, 122:182]), "the sixth place is empty"


def test_runs_over_each_other(tmp_path):
    """One has no validation split, and one a single evaluation."""
    histories = {"lstm": history(5), "gru": history(1), "rnn": history(4, validation=False)}
    pictures.compare(histories, tmp_path / "all.png", metric="accuracy")
    pixels = opened(tmp_path / "all.png")
    for color in ("#1f77b4", "#ff7f0e", "#2ca02c"):
        assert has_color(pixels, color)
    pictures.compare({"lstm": histories["lstm"]}, tmp_path / "one.png")
    assert not has_color(opened(tmp_path / "one.png"), "#ff7f0e")
    with pytest.raises(ValueError, match="gru has no metric 'mae'; it has step, epoch, loss"):
        pictures.compare({"gru": histories["gru"]}, tmp_path / "none.png", metric="mae")
