"""Several machines on one study: PostgreSQL, a real one. A machine is a folder that no other sees."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.train.search import postgres
from train.search import storage, trials
from train.search.space import parse_space
from train.search.trials import Plan, Trials, opened_study, rows

PLAN = Plan(parse_space(["x=0.0..1", "widths=[8..64:8]*1..3"])[0], False)


@pytest.fixture(scope="module")
def url():
    with postgres.server() as url:
        yield url


@pytest.fixture
def opened(url, tmp_path, request):
    with contextlib.ExitStack() as stack:

        def opened(machine, total=4):
            folder = tmp_path / machine
            folder.mkdir(exist_ok=True)
            study = stack.enter_context(opened_study(PLAN, request.node.name, folder, url))
            return study, Trials(study, PLAN, total, folder)

        yield opened


@pytest.mark.slow
def test_machines_share_the_trials_of_a_study(opened):
    def work(machine):
        _, mine = opened(machine, 9)
        taken = []
        with mine.working():
            while claimed := mine.claim():
                ((number, settings),) = claimed
                mine.report(number, 1, 2.0)
                time.sleep(0.02)  # so that all of them get some
                mine.complete(number, settings["x"])
                taken.append(number)
        return taken

    opened("first", 9)
    with ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(work, ["first", "second", "third"]))
    assert sorted(number for numbers in taken for number in numbers) == list(range(9)), "each once"
    assert all(taken)
    study, _ = opened("fourth", 9)
    assert {(row["state"], row["evaluations"]) for row in rows(study, PLAN.space)} == {("complete", 1)}
    assert all(row["value"] == row["draws"]["x"] for row in rows(study, PLAN.space))


def test_a_machine_that_was_killed_is_missed_after_a_while(opened, monkeypatch):
    _, dead = opened("dead")
    (taken,) = dead.claim()
    dead.report(0, 1, 0.5)
    study, living = opened("living")
    with living.working():
        assert living.claim()[0][0] == 1, "for all that is known, the other machine is alive"
        living.complete(1, 0.5)
        monkeypatch.setattr(living._storage._backend, "grace_period", 0)
        time.sleep(1.1)
        assert living.claim() == [taken], "with the values that it drew"
        assert living._latest(0).intermediate_values == {1: 0.5}
        living.complete(0, 0.25)
    assert study.best_value == 0.25


def test_a_process_that_was_killed_on_this_machine_is_missed_at_once(opened):
    _, dead = opened("machine")
    (dead._folder / "workers").mkdir()
    (dead._folder / "workers" / dead._owner).touch()  # held by nobody
    (taken,) = dead.claim()
    _, living = opened("machine")
    assert living.claim() == [taken]


def test_a_machine_that_was_taken_for_dead_does_no_harm(opened):
    _, sleeping = opened("sleeping")
    sleeping.claim()
    study, awake = opened("awake")
    awake._set(sleeping._mine[0]._trial_id, awake_state := study.get_trials()[1].state)
    assert awake_state.name == "WAITING"
    with awake.working():
        assert awake.claim()[0][0] == 0
        assert not sleeping.report(0, 1, 0.5)
        awake.complete(0, 0.25)
        assert sleeping.report(0, 2, 0.5), "it should end"
        sleeping.fail(0, "of no account")
    assert (study.get_trials()[0].state.name, study.get_trials()[0].value) == ("COMPLETE", 0.25)


@pytest.mark.slow  # it waits
def test_signs_of_life_keep_a_trial(opened, monkeypatch):
    monkeypatch.setattr(trials, "HEARTBEAT", 0.2)
    _, working = opened("working")
    study, other = opened("other")
    monkeypatch.setattr(other._storage._backend, "grace_period", 2)
    with working.working():
        working.claim()
        time.sleep(3)
        other.take_back()
        assert study.get_trials()[0].state.name == "RUNNING"
    assert study.get_trials()[0].state.name == "WAITING"


def test_a_trial_beyond_the_last_is_left_for_later(opened):
    """Two machines that begin at once may each make all trials."""
    study, few = opened("few", 2)
    study.enqueue_trial({})
    assert [number for number, _ in few.claim(5)] == [0, 1]
    assert study.get_trials()[2].state.name == "WAITING"


def test_a_server_that_does_not_answer_is_one_error(tmp_path):
    with pytest.raises(ValueError, match=r"postgresql.*zoo:.*@127.0.0.1:1/no cannot be used") as caught:
        storage.open_storage(tmp_path, "postgresql+psycopg://zoo:secret@127.0.0.1:1/no")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="no driver for mysql"):
        storage.open_storage(tmp_path, "mysql+mysqldb://zoo@127.0.0.1:1/no")


def test_a_database_in_a_file_will_do(tmp_path):
    for total in (2, 3):
        with opened_study(PLAN, "study", tmp_path, f"sqlite:///{tmp_path}/study.db") as study:
            mine = Trials(study, PLAN, total, tmp_path)
            with mine.working():
                for number, settings in mine.claim(2):
                    mine.complete(number, settings["x"])
            assert [row["trial"] for row in rows(study, PLAN.space)] == list(range(total))
