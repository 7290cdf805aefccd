"""Tests and measures the zoo on one GPU, beside PyTorch; `.ci/accelerator` runs it.

python -m tests.accelerator [FOLDER] [--tiny] [--seconds 400]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.accelerator import cases, machine, report, suite, tables
from tests.accelerator.processes import Clock, Process, compile_all, measure_in_turn

_COMPILE_SHARE, _NO_NEW_SHARE, _TURNS_SHARE = 0.45, 0.3, 0.75
"""Of the time: the end of compiling, the end of beginning to compile another batch, and the end of measuring."""

_TESTS_AT_MOST, _TURN_AT_MOST = 115.0, 45.0


def processes_of(tiny: bool, clock: Clock, logs: Path) -> tuple[list[list[Process]], list[Process]]:
    """The lanes in which processes compile, and the order in which they measure."""
    arguments = ["--stop-compiling", str(clock.began + _NO_NEW_SHARE * clock.seconds)]
    arguments += ["--tiny", "--seconds", "0.3"] if tiny else []
    made = {
        (framework, what): Process(framework, what, arguments, logs / f"{framework}_{what}.log")
        for what in (*cases.training(tiny), "generation")
        for framework in ("jax", "torch")
    }
    # PyTorch compiles while it runs a first step, which takes the memory of a step: at most three at a time.
    torch = [[made["torch", "gpt2"], made["torch", "generation"]], [made["torch", "resnet50"]], [made["torch", "vit"]]]
    jax = [[made["jax", what]] for what in ("gpt2", "generation", "resnet50", "vit")]
    lanes = [[process for lane in half for process in lane] for half in (jax, torch)] if tiny else [*jax, *torch]
    return lanes, list(made.values())


def rows_of(processes: list[Process], kept: dict[str, str], tiny: bool, peak: float | None) -> list[dict[str, Any]]:
    rows = []
    for process in processes:
        framework = tables.OURS if process.framework == "jax" else tables.THEIRS
        todo = cases.generation(tiny) if process.what == "generation" else cases.training(tiny)[process.what]
        for index, case in enumerate(todo):
            result = process.result(index, kept.get(process.name, "the process said nothing of it"))
            if process.what == "generation":
                rows.append(tables.generation_row(case, framework, result))
            else:
                rows.append(tables.training_row(case, framework, result, peak))
    return rows


def peak_rate(processes: list[Process], device: str) -> tuple[float | None, str]:
    """FLOP/s that count as all that the device can do, and where they come from."""
    known = cases.peak(device)
    if known is not None:
        return known, "data sheet, dense bfloat16"
    measured = [r["matmul"] for process in processes for r in process.results.values() if "matmul" in r]
    return (max(measured), "measured, product of 2048×2048 bfloat16 matrices") if measured else (None, "unknown")


def main() -> int:
    parser = argparse.ArgumentParser(prog=".ci/accelerator")
    parser.add_argument("folder", nargs="?", default=os.environ.get("OUT") or "accelerator-results")
    parser.add_argument("--tiny", action="store_true", default=os.environ.get("ZOO_ACCELERATOR_TINY") == "1")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("ZOO_ACCELERATOR_SECONDS") or 400))
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(args.seconds)
    facts = machine.describe()
    clock.say(f"GPU: {facts['GPU']}; {facts['CPUs']} CPUs; jax {facts['jax']}, torch {facts['torch']}")
    problems: list[str] = []
    if facts["GPU"] == "none" and not args.tiny:
        print("no GPU was found; ZOO_ACCELERATOR_TINY=1 goes through the same on a CPU, with small sizes")
        return 2
    outcome = suite.Outcome(note="not run")
    with tempfile.TemporaryDirectory() as logs:
        lanes, processes = processes_of(args.tiny, clock, Path(logs))
        kept: dict[str, str] = {}
        try:
            compile_all(lanes, clock, _COMPILE_SHARE * clock.seconds)
            kept = measure_in_turn(processes, clock, _TURNS_SHARE * clock.seconds, _TURN_AT_MOST)
        except Exception:
            problems.append(traceback.format_exc())
        finally:
            for process in processes:
                process.kill()
        peak, source = peak_rate(processes, facts["GPU"])
        facts["peak"] = f"{peak / 1e12:.0f} TFLOP/s ({source})" if peak else source
        rows = rows_of(processes, kept, args.tiny, peak)
        report.write(folder, facts, rows, processes, outcome, problems, clock.gone)  # kept, should the tests hang
        (folder / "processes.log").write_text(report.logs_of(processes))
        seconds = min(_TESTS_AT_MOST, clock.left - 5)
        clock.say(f"tests, {seconds:.0f} s at most")
        try:
            count = 2 if args.tiny else max(2, min(12, (os.cpu_count() or 2) - 2))
            outcome = suite.run(folder / "tests.log", seconds, count, args.tiny)
        except Exception:
            problems.append(traceback.format_exc())
        report.write(folder, facts, rows, processes, outcome, problems, clock.gone)
    clock.say(f"tests: {outcome}")
    print((folder / "results.md").read_text())
    clock.say("done")
    return 0 if outcome.good and not problems and not any(tables.broken(row) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
