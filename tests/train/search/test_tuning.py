"""`tune`: trials are runs, and a study that was killed ends as one that was not."""

import csv
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train.recipes  # noqa: F401
import zoo
from tests.train.search import evaluators
from tests.train.search.evaluators import SETTINGS
from train.inference import evaluate
from train.loop.callbacks import read_history
from train.loop.fitting import InterruptedTraining
from train.recipe import get_recipe, override
from train.runs import run as runs
from train.search import evaluation, tune, tuning
from train.search.evaluation import one_by_one
from train.search.pruning import bracket
from train.search.tuning import InterruptedSearch

MLP = get_recipe("mlp_digits")
RATES = ["model_options.hidden_sizes=[8]", "learning_rate=log:1e-4..1e-2"]


def told(report):
    return [(row["trial"], row["state"], row["value"], row["evaluations"], row["draws"]) for row in report["table"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four trials of up to four evaluations, of which successive halving ends some after one or three."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    return folder, tune(MLP, folder, SETTINGS, trials=4, pruner="halving", progress=False)


@pytest.mark.slow
def test_each_trial_is_a_run(study):
    _, report = study
    assert report["complete"] + report["pruned"] == 4
    assert report["pruned"] > 0
    for row in report["table"]:
        history = read_history(Path(row["run"]) / "history.csv")
        assert len(history) == row["evaluations"]
        assert row["value"] == min(each["validation_loss"] for each in history)
        recipe = runs.read_recipe(Path(row["run"]))
        assert recipe.learning_rate == row["draws"]["learning_rate"] == row["settings"]["learning_rate"]
        assert recipe.model_options["hidden_sizes"] == row["settings"]["model_options.hidden_sizes"]


@pytest.mark.slow
def test_the_best_run_can_be_used(study):
    _, report = study
    best = report["best"]
    complete = [row["value"] for row in report["table"] if row["state"] == "complete"]
    assert best["value"] == min(complete)
    assert best["report"]["validation_loss"] == best["value"], "the checkpoint is the one with the value of the trial"
    model, _ = zoo.load_model(best["run"])
    assert list(model.hidden_sizes) == best["settings"]["model_options.hidden_sizes"]
    assert evaluate(best["run"])["test_accuracy"] == best["report"]["test_accuracy"]


@pytest.mark.slow
def test_the_tables_and_pictures_of_a_study(study):
    folder, report = study
    table = json.loads((folder / "trials.json").read_text())
    assert [row["trial"] for row in table] == [0, 1, 2, 3]
    with (folder / "trials.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["learning_rate"]) for line in lines] == [row["draws"]["learning_rate"] for row in table]
    assert json.loads((folder / "report.json").read_text())["best"]["trial"] == report["best"]["trial"]
    for name in ("history.png", "parallel.png"):
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_a_study_that_was_killed_ends_as_one_that_was_not(study, tmp_path):
    """Killed while a trial trains, which goes on from its checkpoint: the rest of its history is not trained again."""
    number = next(row["trial"] for row in study[1]["table"] if row["state"] == "complete")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "XLA_FLAGS": ""}
    died = subprocess.run(
        [sys.executable, Path(evaluators.__file__), tmp_path / "study", str(number), "3"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert died.returncode == -9, died.stderr
    run = tmp_path / "study" / "trials" / f"{number:04d}"
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    assert steps, "it has a checkpoint to go on from"
    first = read_history(run / "history.csv")
    resumed = tune(MLP, tmp_path / "study", SETTINGS, trials=4, pruner="halving", progress=False)
    assert told(resumed) == told(study[1])
    again = read_history(run / "history.csv")
    kept = [row["seconds"] for row in again if row["step"] <= steps[-1]]
    assert kept == [row["seconds"] for row in first if row["step"] <= steps[-1]], "these rows come from the checkpoint"


@pytest.mark.slow
def test_a_pruned_run_can_be_trained_to_its_end(study):
    row = next(row for row in study[1]["table"] if row["state"] == "pruned")
    run = Path(row["run"])
    report = runs.train(runs.read_recipe(run), run, resume=True, progress=False)
    assert report["steps"] == 4 * 40
    assert len(read_history(run / "history.csv")) == 4


@pytest.mark.slow
def test_a_study_that_has_ended_is_reported_again(study):
    folder, report = study
    before = (folder / "study.journal").read_bytes()
    assert told(tune(MLP, folder, SETTINGS, trials=4, pruner="halving", progress=False)) == told(report)
    assert (folder / "study.journal").read_bytes() == before


@pytest.mark.slow
def test_trials_that_diverge_fail_alone(tmp_path):
    settings = ["epochs=1", "optimizer=sgd", "model_options.hidden_sizes=[8]", "learning_rate=1e30,0.1"]
    report = tune(MLP, tmp_path / "study", settings, trials=4, sampler="random", progress=False)
    assert report["failed"] > 0
    assert report["complete"] > 0
    for row in report["table"]:
        assert (row["state"] == "failed") == (row["settings"]["learning_rate"] == 1e30)
        assert ("the loss is nan at step" in row["failure"]) == (row["state"] == "failed")


@pytest.mark.slow
def test_no_trial_with_a_value_is_an_error_that_says_why(tmp_path):
    settings = ["epochs=1", "optimizer=sgd", "model_options.hidden_sizes=[8]", "learning_rate=1e30,1e31"]
    with pytest.raises(ValueError, match=r"no trial of the study .* trial 0: the loss is nan at step"):
        tune(MLP, tmp_path / "study", settings, trials=1, progress=False)


def test_many_candidates_may_be_evaluated_at_once(tmp_path):
    """An evaluator is asked for a batch, tells of its candidates in turn, and is told which to end."""
    report = tune(
        MLP, tmp_path / "study", RATES, trials=20, evaluator=evaluators.all_at_once, population=7, progress=False
    )
    assert report["trials"] == 20
    for row in report["table"]:
        recipe = dataclasses.replace(MLP, learning_rate=row["draws"]["learning_rate"])
        assert row["value"] == evaluators.loss(recipe, row["evaluations"])
        assert row["run"] == ""
    assert {row["evaluations"] for row in report["table"] if row["state"] == "complete"} == {8}
    assert {row["evaluations"] for row in report["table"] if row["state"] == "pruned"} <= {1, 3}
    assert report["pruned"] > 5
    assert any(bracket("hyperband", row["trial"], 50) == 0 for row in report["table"])


def test_a_study_goes_on_after_its_time_was_over_and_after_sigterm(tmp_path, monkeypatch):
    """A second passes at each look at the clock: before each trial, and after each of its eight evaluations."""
    options = {"evaluator": evaluators.one_after_the_other, "progress": False, "pruner": "none"}
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "time", SimpleNamespace(time=itertools.count().__next__))
        part = tune(MLP, tmp_path / "part", RATES, trials=4, timeout=14, **options)
    assert [row["state"] for row in part["table"]] == ["complete"], "none is left running"

    def heard():  # by the search itself
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluators.one_after_the_other()

    def learn(*_):  # by the training
        raise InterruptedTraining(3, 8)

    monkeypatch.setattr(evaluation, "learn", learn)
    for evaluator in (heard, one_by_one):
        with pytest.raises(InterruptedSearch, match="after 1 of 4 trials, and is saved"):
            tune(MLP, tmp_path / "part", RATES, trials=4, **{**options, "evaluator": evaluator})
    assert told(tune(MLP, tmp_path / "part", RATES, trials=4, **options)) == told(
        tune(MLP, tmp_path / "whole", RATES, trials=4, **options)
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_trial_taken_up(tmp_path, caplog):
    report = tune(
        MLP, tmp_path / "study", RATES, trials=6, workers=2, evaluator=evaluators.one_that_dies, progress=False
    )
    assert report["complete"] + report["pruned"] == 6
    assert [record.message for record in caplog.records] == ["a worker was killed by signal 9; another takes its place"]
    draws = [row["draws"] for row in report["table"]]
    assert len({draw["learning_rate"] for draw in draws}) == 6
    assert list((tmp_path / "study" / "workers").iterdir()) == [], "what the dead left is cleared away"


@pytest.mark.slow
def test_an_error_of_a_worker_ends_them_all(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="a worker ended with an error, exit code 1"):
        tune(MLP, tmp_path / "study", RATES, trials=6, workers=2, evaluator=evaluators.broken, progress=False)
    assert "an evaluator that cannot be made" in capfd.readouterr().err


def test_the_guides_space_is_that_of_an_mlp(tmp_path):
    report = tune(MLP, tmp_path / "study", trials=12, evaluator=evaluators.all_at_once, progress=False)
    for row in report["table"]:
        settings = row["settings"]
        sizes = settings["model_options.hidden_sizes"]
        assert 1 <= len(sizes) <= 4
        assert all(size in range(32, 513, 32) for size in sizes)
        assert settings["model_options.dropout_rate"] in (0, 0.1, 0.2, 0.3, 0.4, 0.5)
        assert 1e-4 <= settings["learning_rate"] <= 1e-2
    assert len({len(row["settings"]["model_options.hidden_sizes"]) for row in report["table"]}) > 1


def test_the_direction_is_that_of_the_metric(tmp_path):
    def accuracy():
        def evaluate(candidates, tell):
            for candidate in candidates:
                history = [{"validation_accuracy": candidate.recipe.learning_rate}]
                tell(candidate.number, history)
                yield evaluators.Outcome(candidate.number, history)

        return evaluate

    options = {"metric": "validation_accuracy", "evaluator": accuracy, "progress": False}
    report = tune(MLP, tmp_path / "study", RATES, trials=5, **options)
    assert report["goal"] == "highest"
    assert report["best"]["value"] == max(row["value"] for row in report["table"])


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["width=1..2"], {}, "unknown field of a recipe: 'width'"),
        (["hidden_sizes=[8],[16]"], {}, "set model_options.hidden_sizes"),
        (["model_options.breadth=1..2"], {}, "unknown option of model 'mlp': 'breadth'"),
        (["model_options.dropout_rate=0..1"], {}, r"dropout_rate=1.0: .*must be in \[0, 1\)"),
        (["learning_rate=-1..1"], {}, "learning_rate must be at least 0"),
        (["batch_size=0,16"], {}, "batch_size=0: batch_size must be at least 1"),
        (["batch_size=16,20000"], {}, "batch_size=20000"),
        (["optimizer=adam,adm"], {}, "optimizer=adm: unknown optimizer: 'adm'"),
        (["epochs=5,many"], {}, "epochs=many: epochs must be a number"),
        (["seed=1..5"], {}, "seed cannot be searched"),
        (["data=digits,mnist"], {}, "data cannot be searched"),
        (["task_options.label_smoothing=0..0.5"], {}, "it may change what that measures"),
        (["learning_rate=1..0.1"], {}, "the lower end comes first"),
        (["epochs=2", "model=lenet5", "data_options={}"], {}, "the space is empty"),
        (RATES, {"metric": "validation_accuracies"}, "unknown metric to monitor: 'validation_accuracies'; nearest"),
        (RATES, {"metric": "step"}, "nothing that is better or worse"),
        (RATES, {"trials": 0}, "trials must be at least 1"),
        (RATES, {"workers": 0}, "workers must be at least 1"),
        (RATES, {"timeout": 0.0}, "timeout must be greater than 0"),
        (RATES, {"seed": -1}, "seed must be in"),
        (RATES, {"sampler": "grid"}, "unknown sampler"),
        (RATES, {"pruner": "median"}, "unknown pruner"),
        (RATES, {"storage": "study.db"}, "takes the URL of a database"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, settings, options, message):
    with pytest.raises(ValueError, match=message):
        tune(MLP, tmp_path / "study", settings, **{"trials": 2, "progress": False, **options})
    assert not (tmp_path / "study" / "trials").exists()


@pytest.mark.slow
def test_a_folder_of_something_else_is_refused(study, tmp_path):
    folder, _ = study
    for recipe, settings, message in (
        (MLP, ["epochs=5", *SETTINGS[1:]], r"epochs: 4.0 → 5.0"),
        (MLP, [*SETTINGS, "learning_rate=log:1e-3..1"], r"space: .* → "),
        (override(MLP, ["batch_size=64"]), SETTINGS, "batch_size: 32 → 64"),
    ):
        with pytest.raises(ValueError, match=f"is of something else(?s:.*){message}"):
            tune(recipe, folder, settings, trials=4, pruner="halving", progress=False)
    (tmp_path / "file").touch()
    for place, message in ((tmp_path, "is no study"), (tmp_path / "file" / "below", "cannot be written to")):
        with pytest.raises(ValueError, match=message):
            tune(MLP, place, SETTINGS, trials=4, progress=False)
