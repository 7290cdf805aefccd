"""Trials: handed out once, kept through a kill, taken back from the dead; the same draws by the same seed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.train.search.searching import SPACE, value
from train.search import search
from train.search.space import parse_space
from train.search.storage import JOURNAL, alone, holding, is_held
from train.search.trials import MOST_DEATHS, Plan, Trials, open_study, rows

ROOT = Path(__file__).parents[3]


def plan(**options):
    return Plan(parse_space(["x=0.0..1"])[0], False, **options)


def opened(folder, total=4, **options):
    study = open_study(plan(**options), "study", folder)
    return study, Trials(study, plan(**options), total, folder)


def states(study):
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def in_a_process(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("searching.py")
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def told(table):
    return [(row["trial"], row["state"], row["value"], row["draws"]) for row in table]


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_one_that_is_not(tmp_path):
    """Killed while a trial runs, and twice in the middle of a line of the journal."""
    for kill, where in ((5, "objective"), (13, "journal"), (31, "journal")):
        died = in_a_process(tmp_path, 20, kill, where)
        assert died.returncode == -9, died.stderr
    assert not (tmp_path / JOURNAL).read_bytes().endswith(b"\n")
    resumed = search(value, SPACE, trials=20, folder=tmp_path, seed=3)
    assert told(resumed) == told(search(value, SPACE, trials=20, seed=3))
    assert {row["state"] for row in resumed} == {"complete"}
    for line in (tmp_path / JOURNAL).read_text().splitlines():
        json.loads(line)


def test_a_search_goes_on_to_more_trials(tmp_path):
    first = search(value, SPACE, trials=4, folder=tmp_path, seed=3)
    more = search(value, SPACE, trials=15, folder=tmp_path, seed=3)
    assert told(more)[:4] == told(first)
    assert told(more) == told(search(value, SPACE, trials=15, seed=3))


def test_the_seed_decides_what_is_drawn():
    same = [told(search(value, SPACE, trials=13, seed=seed)) for seed in (1, 1, 2)]
    assert same[0] == same[1]
    assert same[0][0][3] != same[2][0][3]
    random = search(value, SPACE, trials=13, seed=1, sampler="random")
    assert told(random)[:10] == same[0][:10], "TPE begins with ten random trials"
    assert told(random)[12] != same[0][12]


@pytest.mark.slow
def test_tpe_looks_where_it_was_good():
    def best(sampler):
        tables = [search(value, SPACE, trials=60, seed=seed, sampler=sampler) for seed in range(5)]
        return sorted(min(row["value"] for row in table) for table in tables)

    assert best("tpe")[2] < best("random")[2]
    assert best("tpe")[2] < 1.05, "one width costs 1, and the rest can be 0"


def test_a_value_that_is_no_number_fails_alone():
    table = search(lambda s: float("nan") if s["kind"] == "b" else value(s), SPACE, trials=12, seed=0)
    assert {row["state"] for row in table} == {"complete", "failed"}
    for row in table:
        assert (row["state"] == "failed") == (row["settings"]["kind"] == "b")
        assert row["failure"] == ("its value is nan" if row["state"] == "failed" else "")


def test_no_trial_is_handed_out_twice(tmp_path):
    study, first = opened(tmp_path)
    second = Trials(study, plan(), 4, tmp_path)
    with first.working(), second.working():
        taken = [*first.claim(), *second.claim(2), *first.claim(5)]
        assert [number for number, _ in taken] == [0, 1, 2, 3]
        assert second.claim() == []
        first.complete(0, 0.5)
    assert states(study) == ["COMPLETE", "WAITING", "WAITING", "WAITING"], "what was not finished waits"


def test_two_that_begin_at_once_make_no_more_trials_than_were_asked_for(tmp_path):
    opened(tmp_path)
    study, _ = opened(tmp_path)
    assert len(study.get_trials()) == 4


def test_a_trial_of_a_dead_process_waits_again_with_its_values(tmp_path):
    study, dead = opened(tmp_path)
    (taken,) = dead.claim()  # and no `working`: as if its process had been killed
    dead.report(0, 1, 0.25)
    _, living = opened(tmp_path)
    with living.working():
        assert living.claim() == [taken]
        assert living._latest(0).intermediate_values == {1: 0.25}
        living.report(0, 1, 0.75)
        assert living._latest(0).intermediate_values == {1: 0.25}, "what is told is not told again"
        living.complete(0, 0.25)
    assert states(study)[0] == "COMPLETE"


def test_a_trial_that_kills_its_processes_fails_in_the_end(tmp_path):
    for _ in range(MOST_DEATHS):
        _, dead = opened(tmp_path)
        assert dead.claim()[0][0] == 0
    study, living = opened(tmp_path)
    with living.working():
        assert living.claim()[0][0] == 1
    table = rows(study, plan().space)
    assert (table[0]["state"], table[0]["failure"][:19]) == ("failed", "its process died 5 ")


def test_deaths_at_different_places_are_no_fault_of_the_trial(tmp_path):
    for evaluations in range(1, MOST_DEATHS + 2):
        _, dead = opened(tmp_path)
        assert dead.claim()[0][0] == 0
        dead.report(0, evaluations, 0.5)
    study, living = opened(tmp_path)
    living.take_back()
    assert states(study)[0] == "WAITING"


def test_a_batch_draws_different_values():
    """Trials that run count as bad ones, so that TPE does not ask for one place again and again."""
    _, trials = opened(None, 40)
    for number, settings in trials.claim(20):
        trials.complete(number, abs(settings["x"] - 0.3))
    batch = [settings["x"] for _, settings in trials.claim(10)]
    assert len({round(x, 3) for x in batch}) == 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed: 0 → 1"),
        ({"sampler": "random"}, "sampler: tpe → random"),
        ({"about": {"a": 1}}, "a: None → 1"),
    ],
)
def test_a_storage_of_another_study_is_refused(tmp_path, changed, message):
    opened(tmp_path)
    with pytest.raises(ValueError, match="is of something else") as caught:
        opened(tmp_path, **changed)
    assert message in str(caught.value)


def test_a_storage_of_somebody_elses_is_refused(tmp_path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    optuna.create_study(storage=storage, study_name="study").add_trial(
        optuna.trial.create_trial(state=TrialState.COMPLETE, value=1.0)
    )
    with pytest.raises(ValueError, match="was not made by"):
        opened(tmp_path)


def test_a_journal_that_is_none_is_said_to_be_damaged(tmp_path):
    (tmp_path / JOURNAL).write_text("no\njournal\n")
    with pytest.raises(ValueError, match="damaged"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "takes the URL of a database"),
        ("nosuch://host/name", "no driver"),
        ("sqlite:////nowhere/at/all.db", "cannot be used: unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_error(tmp_path, url, message):
    with pytest.raises(ValueError, match=message):
        open_study(plan(), "study", tmp_path, url)


def test_a_function_is_searched_with_what_is_fixed():
    table = search(lambda s: s["x"] * s["scale"], ["x=1..9", "scale=2"], trials=5, maximize=True)
    assert all(row["value"] == 2 * row["draws"]["x"] for row in table)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["x=3"], {}, "the space is empty"),
        (["x=1..3"], {"trials": 0}, "trials must be at least 1"),
        (["x=1..3"], {"sampler": "tpf"}, "unknown sampler: 'tpf'; nearest: tpe"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(settings, options, message):
    with pytest.raises(ValueError, match=message):
        search(lambda s: 0.0, settings, **{"trials": 3, **options})


def test_an_error_of_the_function_ends_the_search_and_loses_nothing(tmp_path):
    def broken(settings):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(broken, ["x=0.0..1"], trials=3, folder=tmp_path)
    assert len(search(lambda s: s["x"], ["x=0.0..1"], trials=3, folder=tmp_path)) == 3


def test_a_file_is_held_by_one_alone(tmp_path):
    with holding(tmp_path / "workers" / "one"):
        assert is_held(tmp_path / "workers" / "one")
    assert not (tmp_path / "workers" / "one").exists()
    with alone(tmp_path / "lock"):
        pass
