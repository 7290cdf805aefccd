"""What processes say, how time is shared among them, and what a log of tests comes to."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.accelerator import report, suite, worker
from tests.accelerator.processes import Clock, Process, compile_all, event_of, measure_in_turn

WORKER = """
import json, sys, time
time.sleep({compiling})
print("noise of a library")
print(json.dumps({{"event": "compiled", "case": 0, "seconds": 1.0}}), flush=True)
print(json.dumps({{"event": "ready"}}), flush=True)
sys.stdin.readline()
time.sleep({measuring})
print(json.dumps({{"event": "result", "case": 0, "status": "ok", "step": 0.5}}), flush=True)
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Makes processes that take so many seconds to compile and to measure, or that fail."""
    scripts = {}
    popen = subprocess.Popen
    monkeypatch.setattr(
        "tests.accelerator.processes.subprocess.Popen",
        lambda command, **options: popen([sys.executable, "-c", scripts[command[4]]], **options),
    )
    made = []

    def make(name, compiling=0.0, measuring=0.0, script=WORKER):
        scripts[name] = script.format(compiling=compiling, measuring=measuring)
        made.append(Process("jax", name, [], tmp_path / f"{name}.log"))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def test_lines_of_libraries_are_no_events():
    assert event_of('{"event": "ready"}') == {"event": "ready"}
    for noise in ("", "warning", "[1]", "3", '{"other": 1}'):
        assert event_of(noise) is None


def test_all_compile_first_and_then_measure_in_turn(process):
    lanes = [[process("a"), process("b")], [process("c")]]
    clock = Clock(60)
    compile_all(lanes, clock, 30)
    every = [each for lane in lanes for each in lane]
    assert all(each.ready for each in every)
    assert measure_in_turn(every, clock, 50, 20) == {}
    assert [each.result(0, "none")["step"] for each in every] == [0.5] * 3


@pytest.mark.slow  # it waits
def test_what_time_did_not_allow_is_told(process):
    slow, later, hanging, failing = (
        process("slow", compiling=60),
        process("later"),
        process("hanging", measuring=60),
        process("failing", script="raise ValueError('no such thing')"),
    )
    clock = Clock(60)
    compile_all([[slow, later], [hanging], [failing]], clock, 3)
    kept = measure_in_turn([slow, later, hanging, failing], clock, 50, 1.5)
    assert slow.result(0, kept["jax slow"])["status"].startswith("not measured: it was still compiling")
    assert later.result(0, kept["jax later"])["status"].startswith("not tried")
    assert hanging.result(0, kept["jax hanging"])["status"].startswith("not measured: it took longer than")
    assert "ValueError: no such thing" in failing.result(0, "nothing")["status"]
    assert "jax failing" not in kept


def test_no_turn_begins_when_time_is_over(process):
    late = process("late")
    clock = Clock(60)
    compile_all([[late]], clock, 30)
    assert measure_in_turn([late], clock, 0, 10) == {"jax late": "not measured: no time was left"}


def test_a_measurement_is_the_median_of_blocks_after_a_warm_up():
    taken = []

    def run(steps):
        taken.append(steps)
        return steps * (9.0 if len(taken) == 4 else 0.01)

    assert worker.seconds_per_step(run, 0.3) == pytest.approx(0.01)
    assert taken == [1, 1, 10, 10, 10]
    assert worker.seconds_per_step(lambda steps: 2.0 * steps, 3.0) == 2.0


def test_memory_that_ran_out_is_told_from_other_errors():
    assert worker.in_words(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying…")) == "out of memory"
    assert worker.in_words(ValueError("first\nsecond")) == "ValueError: first"
    assert worker.in_words(ValueError()) == "ValueError: "


def test_memory_that_a_neighbour_held_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(worker, "_PATIENCE", 0)
    tries = []

    def make(case):
        tries.append(case)
        if len(tries) < 3:
            raise RuntimeError("CUDA out of memory")
        return "prepared"

    assert worker.prepare(make, 1) == "prepared"
    with pytest.raises(ValueError, match="other"):
        worker.prepare(lambda case: (_ for _ in ()).throw(ValueError("other")), 1)


LOG = """\
created: 2/2 workers
2 workers [5 items]
scheduling tests via WorkStealingScheduling

tests/a/test_b.py::test_c[mask and causal]
[gw0] [ 20%] PASSED tests/a/test_b.py::test_c[mask and causal] \n\
[gw1] [ 40%] PASSED tests/a/test_b.py::test_c[mask and lengths]
[gw1] [ 60%] FAILED tests/a/test_b.py::test_d
[gw1] [ 80%] SKIPPED tests/a/test_b.py::test_e
"""


def test_a_log_of_tests_is_counted_also_where_it_stops():
    outcome = suite.parse(LOG, "stopped after 9 s")
    assert outcome == suite.Outcome(2, 1, ("tests/a/test_b.py::test_d",), 5, "stopped after 9 s")
    assert str(outcome) == "2 passed, 1 failed, 1 skipped, 1 of 5 not run (stopped after 9 s)"
    assert not outcome.good


@pytest.mark.parametrize(
    ("outcome", "good"),
    [
        (suite.Outcome(3), True),
        (suite.Outcome(3, note="stopped after 9 s"), True),
        (suite.Outcome(3, note="pytest ended with 3"), False),
        (suite.Outcome(0), False),
        (suite.Outcome(3, failed=("a",)), False),
    ],
)
def test_tests_are_good_where_some_passed_and_none_failed(outcome, good):
    assert outcome.good == good


@pytest.mark.parametrize(
    ("calls", "word"),
    [
        ({"__cudnn$fmhaSoftmax": 12, "__cudnn$fmhaSoftmaxBackward": 12}, "yes"),
        ({"__cudnn$fmhaSoftmax": 12, "__cublas$gemm": 3}, "forward only"),
        ({"__cublas$gemm": 3}, "no"),
    ],
)
def test_flash_attention_is_named_by_its_calls(calls, word):
    process = SimpleNamespace(framework="jax", what="gpt2", results={0: {"calls": calls}})
    assert f"| gpt2 | {word} |" in report.flash([process])
