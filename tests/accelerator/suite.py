"""The part of the test suite that says something about a GPU, under a time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PATHS = (
    "tests/zoo/layers",
    "tests/zoo/text",
    "tests/zoo/generative",
    "tests/zoo/test_models.py",
    "tests/train/test_precision.py",
    "tests/train/test_losses.py",
    "tests/train/test_metrics.py",
    "tests/train/tasks",
    "tests/train/inference/test_text_generation.py",
    "tests/train/loop/test_checkpoint.py",
    "tests/parity/test_torch_layers.py",
    "tests/parity/test_transformers.py",
    "--ignore=tests/zoo/layers/test_convolution.py",  # of what a CPU does, as the next
    "--ignore=tests/zoo/layers/test_onednn.py",
)
_NEEDS_DEVICES = "pmap or inside_a_map or under_another or killed or where_it_is_called or gpus_from_ampere_on"
"""By words of their names, tests that want several devices, two CPU devices in processes of their own, or no GPU."""

_SELECTED = f"not ({_NEEDS_DEVICES} or export or (test_models.py and not bfloat16))"
TINY_PATHS = ("tests/zoo/layers/test_attention.py", "tests/train/test_precision.py")

_LAST_WORDS = 8.0
"""Seconds for the summary of tests that were stopped."""

_OUTCOME = re.compile(r"^\[gw\d+\].*?(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (tests/.+?) *$", re.MULTILINE)
_COLLECTED = re.compile(r"^\d+ workers \[(\d+) items\]", re.MULTILINE)


class Outcome(NamedTuple):
    """What a run of the tests came to; `note` says what kept it from its end."""

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    collected: int | None = None
    note: str = ""

    @property
    def good(self) -> bool:
        return not self.failed and self.passed > 0 and (not self.note or self.note.startswith("stopped"))

    def __str__(self) -> str:
        words = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped"
        missing = (self.collected or 0) - self.passed - self.skipped - len(self.failed)
        if missing > 0:
            words += f", {missing} of {self.collected} not run"
        return words + (f" ({self.note})" if self.note else "")


def parse(log: str, note: str = "") -> Outcome:
    """Counts outcomes line by line, so that a run that was stopped counts too."""
    outcomes = {test: outcome for outcome, test in _OUTCOME.findall(log)}
    kinds = list(outcomes.values())
    collected = _COLLECTED.search(log)
    return Outcome(
        passed=kinds.count("PASSED"),
        skipped=kinds.count("SKIPPED") + kinds.count("XFAIL"),
        failed=tuple(test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR", "XPASS")),
        collected=int(collected[1]) if collected else None,
        note=note,
    )


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ends the tests, after they had a moment to say why those that failed did."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(_LAST_WORDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def run(log: Path, seconds: float, processes: int, tiny: bool) -> Outcome:
    environment = {
        **os.environ,
        "ZOO_TEST_PLATFORMS": "cpu" if tiny else "cuda,cpu",
        # A GPU multiplies float32 matrices in TF32 by default; the tolerances are those of float32.
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Some tests compare two runs bit by bit.
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {'' if tiny else '--xla_gpu_deterministic_ops=true'}",
    }
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["-p", "tests.accelerator.reasons"]
    # Warnings are for the CPU's run to refuse: here they may come from a driver.
    command += [f"--numprocesses={processes}", "--dist=worksteal", "-W", "default", "-k", _SELECTED]
    command += TINY_PATHS if tiny else PATHS
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code, note = process.wait(seconds), ""
        except subprocess.TimeoutExpired:
            code, note = _stop(process), f"stopped after {seconds:.0f} s"
    outcome = parse(log.read_text(errors="replace"), note)
    if not note and code not in (0, 1):
        outcome = outcome._replace(note=f"pytest ended with {code}")
    return outcome
