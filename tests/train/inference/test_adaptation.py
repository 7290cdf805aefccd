"""A few-shot learner on a user's own classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.data.episodes.test_episodes import small_omniglot
from train.cli import main
from train.inference import adapt, evaluate, predict
from train.inference.loading import load
from train.recipe import Recipe
from train.runs.run import train
from train.tasks.few_shot.maml import solve

pytestmark = pytest.mark.slow

SMALL = {"features": 8, "num_layers": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of MAML and of prototypical networks on bars at different heights."""
    root = tmp_path_factory.mktemp("few_shot")
    small_omniglot(root / "data" / "omniglot", "npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_DATA_DIR", str(root / "data"))
        made = {}
        for task, options in (("maml", {"inner_rate": 0.4}), ("prototypical", {})):
            recipe = Recipe(
                model="conv4_pool",
                data="omniglot",
                task=task,
                task_options=options,
                model_options={**SMALL, **({"num_classes": 0} if task == "prototypical" else {})},
                data_options={
                    **{"ways": 3, "queries": 2, "rotations": False, "train_characters": 110},
                    **{"episodes": 64, "test_episodes": 8},
                },
                batch_size=4,
                epochs=1.0,
                learning_rate=3e-3,
            )
            train(recipe, root / task, progress=False)
            made[task] = root / task
        yield made


def bars(root: Path, rows: dict[str, int], shots: int = 1) -> Path:
    """A folder for each class, of dark bars on white, each at its row."""
    for name, row in rows.items():
        (root / name).mkdir(parents=True)
        for index in range(shots):
            pixels = np.full((20, 20), 255, np.uint8)
            pixels[row : row + 2, index : 20 - index] = 0
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


THREE = {"high": 1, "low": 17, "middle": 9}


@pytest.mark.parametrize("task", ["maml", "prototypical"])
@pytest.mark.parametrize("shots", [1, 3])
def test_each_picture_of_the_support_set_is_told_its_own_class(runs, tmp_path, task, shots):
    folder = bars(tmp_path / "support", THREE, shots)
    queries = [folder / name / "0.png" for name in THREE]
    found = adapt(runs[task], folder, queries, **({"steps": 5} if task == "maml" else {}))
    assert [each.label for each in found] == list(THREE)
    for each in found:
        assert sum(each.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert set(each.probabilities) == set(THREE)


def test_classes_of_different_numbers_of_pictures(runs, tmp_path):
    folder = bars(tmp_path / "support", {"high": 1, "low": 17}, 3)
    bars(folder, {"middle": 9}, 1)
    for task in runs:
        assert len(adapt(runs[task], folder, [folder / "low"])) == 3


def test_prototypical_networks_take_any_number_of_classes_and_maml_does_not(runs, tmp_path):
    folder = bars(tmp_path / "two", {"high": 1, "low": 17})
    (found,) = adapt(runs["prototypical"], folder, [folder / "low" / "0.png"])
    assert found.label == "low"
    with pytest.raises(ValueError, match=r"has 2 classes \(high, low\), and this run was trained on tasks of 3"):
        adapt(runs["maml"], folder, [folder / "low" / "0.png"])


def test_bad_support_sets_are_refused(runs, tmp_path):
    run = runs["prototypical"]
    with pytest.raises(FileNotFoundError, match="expected a folder for each class"):
        adapt(run, tmp_path / "none", ["a.png"])
    one = bars(tmp_path / "one", {"high": 1})
    with pytest.raises(ValueError, match=r"one has one class \(high\); expected"):
        adapt(run, one, [one / "high" / "0.png"])
    (one / "empty").mkdir()
    with pytest.raises(ValueError, match="the class 'empty' is empty"):
        adapt(run, one, [one / "high" / "0.png"])
    (one / "empty" / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"cannot read .*text\.png(.*\n)+mend them, or take them out"):
        adapt(run, one, [one / "high" / "0.png"])
    two = bars(tmp_path / "two", {"high": 1, "low": 17})
    with pytest.raises(ValueError, match="no picture to classify"):
        adapt(run, two, [])
    with pytest.raises(ValueError, match="have no inner steps"):
        adapt(run, two, [two / "low"], steps=3)


def test_predict_points_to_adapt(runs, tmp_path):
    with pytest.raises(ValueError, match="zoo adapt RUN --support FOLDER --query FILE"):
        predict(runs["maml"], [tmp_path / "a.png"])


def test_evaluation_tells_intervals_steps_and_whose_statistics(runs):
    report = evaluate(runs["maml"])
    assert report["tasks"] == 8
    assert report["batch_norm"] == "transductive: of all queries together"
    for name in ("accuracy", "accuracy_after_1", "accuracy_after_5", "accuracy_after_10", "loss"):
        assert np.isfinite(report[f"test_{name}"])
        assert report[f"test_{name}_interval"] >= 0
    assert evaluate(runs["prototypical"])["batch_norm"] == "not transductive: each query by itself"


def test_a_learner_is_judged_by_other_tasks(runs):
    one = evaluate(runs["maml"], settings=["data_options.shots=1"])
    fewer = ["data_options.queries=1", "data_options.train_shots=1", "data_options.train_queries=1"]
    two = evaluate(runs["maml"], settings=["data_options.shots=2", *fewer])
    assert one == evaluate(runs["maml"])
    assert one["test_loss"] != two["test_loss"]
    assert evaluate(runs["prototypical"], settings=["data_options.ways=5"])["test_accuracy"] <= 1
    with pytest.raises(ValueError, match="the model has 3 outputs, and the tasks have 4 classes"):
        evaluate(runs["maml"], settings=["data_options.ways=4"])
    with pytest.raises(ValueError, match="of a trained run data_options and task_options can be set"):
        evaluate(runs["maml"], settings=["batch_size=4"])


def test_any_number_of_inner_steps_is_one_program(runs, tmp_path):
    """The same as steps in one program, and a thousand are not compiled one by one."""
    folder = bars(tmp_path / "support", THREE, 2)
    queries = [folder / name / "0.png" for name in THREE]
    run = load(runs["maml"])
    seen, asked = (np.stack([run.dataset.reader.read(f) for f in files]) / np.float32(255)
                   for files in ([folder / n / f"{i}.png" for n in THREE for i in range(2)], queries))  # fmt: skip
    told, options = np.repeat(np.arange(3), 2), {"inner_rate": 0.4, "steps": 2, "transductive": True}
    wanted = jax.nn.softmax(jax.jit(partial(solve, run.model, **options))(run.variables, seen, told, asked))
    found = [[*each.probabilities.values()] for each in adapt(runs["maml"], folder, queries, steps=2)]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert [each.label for each in adapt(runs["maml"], folder, queries, steps=1000)] == list(THREE)


def test_the_command(runs, tmp_path, capsys):
    folder = bars(tmp_path / "support", THREE)
    files = [str(folder / name / "0.png") for name in ("low", "high", "middle")]
    words = ["adapt", str(runs["prototypical"]), "--support", str(folder), "--query", *files[:2], "--query", files[2]]
    main([*words, "--top", "1"])
    out = capsys.readouterr().out
    assert [line.partition(" (")[0] for line in out.splitlines()] == [
        f"{file}: {name}" for file, name in zip(files, ("low", "high", "middle"), strict=True)
    ]
    assert out.count("%") == 3
