"""The processes that measure, seen from the one that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Clock:
    """What is left of the time."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.time(), seconds

    @property
    def gone(self) -> float:
        return time.time() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.gone

    def say(self, words: str) -> None:
        print(f"[{self.gone:5.0f} s] {words}", flush=True)


def event_of(line: str) -> dict[str, Any] | None:
    """What a line of a process says; libraries print lines of their own."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


class Process:
    """A process of `tests.accelerator.worker`.

    Attributes:
      results: by number of the case, what it has said last of it.
      ready: whether it waits for its turn.
    """

    def __init__(self, framework: str, what: str, arguments: Sequence[str], log: Path) -> None:
        self.framework, self.what, self.arguments, self.log = framework, what, arguments, log
        self.results: dict[int, dict[str, Any]] = {}
        self.compiled: dict[int, float] = {}
        self.ready = False
        self._process: Any = None
        self._listener: Any = None

    @property
    def name(self) -> str:
        return f"{self.framework} {self.what}"

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if self.framework == "torch":
            environment["JAX_PLATFORMS"] = "cpu"  # the zoo is imported there too, and must hold nothing of the GPU
        command = [sys.executable, "-m", "tests.accelerator.worker", self.framework, self.what, *self.arguments]
        with self.log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def _listen(self, lines: Any) -> None:
        with lines:
            for line in lines:
                said = event_of(line)
                if said is None:
                    continue
                if said["event"] == "ready":
                    self.ready = True
                elif said["event"] == "compiled":
                    self.compiled[said["case"]] = said["seconds"]
                else:
                    self.results[said["case"]] = said

    def go(self) -> None:
        """Lets it measure."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._listener.join(2)  # what it started may hold its output open
        return True

    def kill(self) -> None:
        """Ends it and what it started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._listener.join(2)
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def result(self, case: int, why_none: str) -> dict[str, Any]:
        """What it said of a case; where it said nothing, why."""
        if case in self.results:
            return self.results[case]
        if self.ended and self._process.returncode > 0:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            why_none = f"the process ended with {self._process.returncode}: {lines[-1][:200] if lines else ''}"
        return {"status": why_none}


def compile_all(lanes: Sequence[Sequence[Process]], clock: Clock, until: float) -> None:
    """Starts the processes, those of a lane one after another, until all wait for their turn or time is up."""
    told: set[tuple[str, int]] = set()
    while clock.gone < until:
        settled = True
        for lane in lanes:
            waiting = next((process for process in lane if not (process.ready or process.ended)), None)
            if waiting is None:
                continue
            settled = False
            if not waiting.started:
                clock.say(f"{waiting.name}: starts to compile")
                waiting.start()
        for process in (process for lane in lanes for process in lane):
            for case, seconds in list(process.compiled.items()):
                if (process.name, case) not in told:
                    told.add((process.name, case))
                    clock.say(f"{process.name}: case {case + 1} is compiled ({seconds:.0f} s)")
        if settled:
            return
        time.sleep(0.2)


def measure_in_turn(processes: Sequence[Process], clock: Clock, until: float, most: float) -> dict[str, str]:
    """Gives each its turn, of `most` seconds, and returns by name what kept it from its end."""
    kept: dict[str, str] = {}
    for process in processes:
        if process.ended:  # what it said of its cases counts, and its last words
            continue
        if not process.started:
            kept[process.name] = "not tried: no time to compile it"
        elif not process.ready:
            kept[process.name] = "not measured: it was still compiling when time was up"
            process.kill()
        elif clock.gone >= until:
            kept[process.name] = "not measured: no time was left"
            process.kill()
    for process in processes:
        if process.name in kept or process.ended:
            continue
        seconds = min(most, until - clock.gone)
        if seconds < 1:
            kept[process.name] = "not measured: no time was left"
            process.kill()
            continue
        process.go()
        if not process.wait(seconds):
            kept[process.name] = f"not measured: it took longer than {seconds:.0f} s"
            process.kill()
        clock.say(f"{process.name}: measured")
    return kept
