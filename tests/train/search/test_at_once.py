"""Candidates that are trained at once become the runs that each would have been by itself."""

from __future__ import annotations

import jax
import pytest

import train.recipes  # noqa: F401
from train.inference import evaluate
from train.loop.callbacks import read_history
from train.recipe import get_recipe, override
from train.runs.build import build
from train.search import populations, tune
from train.search.at_once import at_once
from train.search.evaluation import Candidate, Outcome, one_by_one

pytestmark = pytest.mark.slow

MLP = override(get_recipe("mlp_digits"), ["epochs=3", "model_options.hidden_sizes=[8]"])
CHANGES = (
    ["learning_rate=0.01"],
    ["learning_rate=0.003", "model_options.dropout_rate=0.3"],
    ["learning_rate=0.01", "batch_size=64"],
    ["learning_rate=0.002", "batch_size=64", "patience=1"],
    ["learning_rate=1e38", "optimizer=sgd"],
)


@pytest.fixture(scope="module", autouse=True)
def populations_on_one_device():
    """Eight would take as many times as long to compile for."""
    with pytest.MonkeyPatch.context() as patch:
        fit_population = populations.fit_population
        patch.setattr(
            "train.search.at_once.fit_population", lambda *a, **o: fit_population(*a, devices=jax.devices()[:1], **o)
        )
        yield


def candidates(folder, numbers=range(5)):
    return [Candidate(n, override(MLP, CHANGES[n]), folder / f"{n:04d}") for n in numbers]


def never(number, history):
    return False


def test_each_ends_as_by_itself(tmp_path):
    together = {outcome.number: outcome for outcome in at_once()(candidates(tmp_path / "together"), never)}
    alone = {outcome.number: outcome for outcome in one_by_one()(candidates(tmp_path / "alone"), never)}
    assert [together[n].way for n in range(4)] == ["3 at once by vmap", "3 at once by vmap", "", ""]
    assert "the loss is no number at step" in together[4].failure
    assert "the loss is" in alone[4].failure
    for number in range(4):
        rows, wanted = together[number].history, alone[number].history
        assert [row["step"] for row in rows] == [row["step"] for row in wanted]
        for row, other in zip(rows, wanted, strict=True):
            assert row["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-4)
        folder = tmp_path / "together" / f"{number:04d}"
        assert [row["step"] for row in read_history(folder / "history.csv")] == [row["step"] for row in rows]
        reports = [evaluate(tmp_path / kind / f"{number:04d}") for kind in ("together", "alone")]
        assert reports[0]["test_log_loss"] == pytest.approx(reports[1]["test_log_loss"], rel=1e-3)


def test_who_is_told_to_stop_stops_and_has_a_run(tmp_path):
    told = []

    def tell(number, history):
        told.append((number, len(history)))
        return number == 1 and len(history) == 2

    outcomes = {outcome.number: outcome for outcome in at_once()(candidates(tmp_path, (0, 1)), tell)}
    assert outcomes[1].stopped
    assert not outcomes[0].stopped
    assert told == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    assert len(outcomes[1].history) == 2
    assert len(read_history(tmp_path / "0001" / "history.csv")) == 2
    assert evaluate(tmp_path / "0001")["test_accuracy"] > 0.3


def test_each_has_the_length_that_it_would_have_by_itself(tmp_path):
    """Seven batches make one update, of which there are whole ones only."""
    windows = ([], ["optimizer_options.accumulate_steps=7"], ["optimizer_options.accumulate_steps=7"])
    given = [
        Candidate(n, override(MLP, ["epochs=1", "optimizer=sgd", *window]), tmp_path / str(n))
        for n, window in enumerate(windows)
    ]
    together, alone = (
        {outcome.number: outcome.history[-1]["step"] for outcome in evaluate_all(given, never)}
        for evaluate_all in (at_once(), steps_alone)
    )
    assert together == alone
    assert together[0] != together[1]


def steps_alone(candidates, tell):
    for candidate in candidates:
        yield Outcome(candidate.number, [{"step": build(candidate.recipe).steps}])


def test_what_tell_raises_ends_all(tmp_path):
    def tell(number, history):
        raise OSError("the storage is gone")

    with pytest.raises(OSError, match="the storage is gone"):
        list(at_once()(candidates(tmp_path, (0, 1)), tell))


def test_a_study_whose_trials_are_trained_at_once(tmp_path):
    space = ["learning_rate=log:1e-3..1e-1", "model_options.dropout_rate=0.1..0.5", "epochs=2"]
    report = tune(
        MLP, tmp_path / "study", space, trials=5, pruner="none", evaluator=at_once, population=3, progress=False
    )
    assert report["complete"] == 5
    best = report["best"]
    assert best["report"]["validation_loss"] == best["value"] == min(row["value"] for row in report["table"])
