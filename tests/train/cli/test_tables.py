"""A table and arrays of a user's own, from the files to predictions."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

from tests.train.cli.command import error, parsed, run

pytestmark = pytest.mark.slow


def table(path, names, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A folder with iris as a CSV file, species by name, and a run on it."""
    folder, found = tmp_path_factory.mktemp("flowers"), load_iris()
    rows = [[*row, found.target_names[label]] for row, label in zip(found.data, found.target, strict=True)]
    table(folder / "flowers.csv", ["a", "b", "c", "d", "species"], rows)
    report = parsed("train", "mlp_table", f"data=csv:{folder / 'flowers.csv'}", "epochs=40", "--run", folder / "run")
    return folder, report, rows


def test_training_and_evaluating(flowers):
    folder, report, _ = flowers
    assert report["test_accuracy"] > 0.9
    assert parsed("evaluate", folder / "run")["test_accuracy"] == report["test_accuracy"]


def test_lines_are_classified_where_the_table_is_not(flowers, tmp_path):
    folder, _, rows = flowers
    (folder / "flowers.csv").rename(folder / "gone.csv")
    try:
        file = table(
            tmp_path / "new.csv", ["d", "c", "b", "a"], [row[3::-1] for row in rows]
        )  # another order, no species
        found = parsed("predict", folder / "run", file)
        assert np.mean([each["label"] == row[4] for each, row in zip(found, rows, strict=True)]) > 0.9
        assert run("predict", folder / "run", tmp_path).startswith(f"{file}, row 1: setosa (")
        table(file, ["a", "b", "c"], [[1, 2, 3]])
        assert "has no column 'd'; it has a, b, c" in error("predict", folder / "run", file)
    finally:
        (folder / "gone.csv").rename(folder / "flowers.csv")


def test_other_columns_are_refused(flowers):
    folder, _, _ = flowers
    whole = (folder / "flowers.csv").read_text()
    try:
        lines = [line.split(",") for line in whole.split()]
        (folder / "flowers.csv").write_text("".join(f"{b},{a},{c},{d},{e}\n" for a, b, c, d, e in lines))
        message = error("evaluate", folder / "run")
        assert "the columns of " in message
        assert "then: ('a', 'b', 'c', 'd')\n  now:  ('b', 'a', 'c', 'd')" in message
    finally:
        (folder / "flowers.csv").write_text(whole)


def test_a_table_is_not_exported(flowers, tmp_path):
    assert "are not images, but features, label" in error("export", flowers[0] / "run", "--out", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_number_is_told_in_the_units_of_the_file(tmp_path):
    found = load_diabetes()
    rows = [[*row, value] for row, value in zip(found.data, found.target, strict=True)]
    file = table(tmp_path / "t.csv", [*found.feature_names, "progress"], rows)
    assert "needs the field 'label', and the data set " in error("train", "mlp_table", f"data=csv:{file}")
    settings = ["task=regression", "epochs=20", "--run", tmp_path / "run"]
    report = parsed("train", "mlp_table", f"data=csv:{file}", *settings)
    values = np.array([each["values"][0] for each in parsed("predict", tmp_path / "run", file)])
    assert np.abs(values - found.target).mean() < 50  # that of the mean alone is 66
    assert "--top chooses among classes" in error("predict", tmp_path / "run", file, "--top", 2)
    deviation = report["test_mae_of_progress"] / report["test_mae"]
    assert deviation == pytest.approx(found.target.std(), rel=0.1)


def test_a_run_is_used_from_another_folder(flowers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(flowers[0])
    printed = run("train", "mlp_table", "data=csv:flowers.csv", "epochs=1", "--run", tmp_path / "run")
    kept, use = printed.splitlines()[-2:]
    assert kept == f"kept in {tmp_path / 'run'}, for `zoo evaluate`, `zoo predict`; such as"
    assert use.startswith(f"zoo predict {tmp_path / 'run'} ")
    monkeypatch.chdir(tmp_path)
    assert "test_accuracy" in parsed("evaluate", "run")
    again = parsed("train", "--run", "run", "--resume", "epochs=2")
    assert again["steps"] > 4


def test_lines_to_predict_need_all_values(flowers, tmp_path):
    file = table(tmp_path / "new.csv", ["a", "b", "c", "d"], [[1, 2, 3, ""]])
    message = error("predict", flowers[0] / "run", file)
    assert "lacks values; fill them in, or take the lines out:\n  column 'd': 1 of 1" in message


def test_a_validation_split_of_the_data_is_taken(tmp_path):
    x, y = np.random.default_rng(0).uniform(size=(48, 8, 8)).astype(np.float32), np.arange(48) % 4
    np.savez(tmp_path / "a.npz", x_train=x[:40], y_train=y[:40], x_validation=x[40:], y_validation=y[40:])
    settings = ["model=mlp", "data_options={}", "epochs=1", "batch_size=20", "--run", tmp_path / "run"]
    report = parsed("train", *settings, f"data=npz:{tmp_path / 'a.npz'}", "lenet5_digits")
    assert report["steps"] == 2
    assert "has no split 'test'; it has train, validation: choose one with split=" in error(
        "evaluate", tmp_path / "run"
    )


def test_arrays_in_a_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = np.uint8(rng.integers(0, 60, (120, 8, 8)) + 80 * labels[:, None, None])
    np.savez(tmp_path / "a.npz", x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
    settings = ["model=mlp", "data_options={}", "epochs=60", "batch_size=16", "--run", tmp_path / "run"]
    report = parsed("train", "lenet5_digits", f"data=npz:{tmp_path / 'a.npz'}", *settings)
    assert report["test_accuracy"] > 0.9
