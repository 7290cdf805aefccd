"""Searches for a minimum in a process of its own, and kills it; run by test_trials.py.

usage: searching.py FOLDER TRIALS KILL WHERE: at the KILLth call, WHERE it is, of "objective" or of "journal" (half of
a line is written then); a KILL of 0 searches to the end.
"""

import os
import signal
import sys

from optuna.storages.journal import JournalFileBackend

from train.search import search

SPACE = ["x=-5.0..5", "y=log:1e-3..1", "widths=[32..512:32]*1..4", "kind=a,b"]


def value(settings):
    return (settings["x"] - 1) ** 2 + settings["y"] + len(settings["widths"]) + (settings["kind"] == "b")


if __name__ == "__main__":
    folder, trials, kill, where = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    calls = 0

    def killed(name):
        global calls
        calls += name == where
        return bool(kill) and calls == kill and name == where

    append = JournalFileBackend.append_logs

    def append_half(self, logs):
        if killed("journal"):
            self._lock.acquire()
            with open(self._file_path, "ab") as file:
                file.write(b'{"op_code":4,"worker')
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, logs)

    def objective(settings):
        if killed("objective"):
            os.kill(os.getpid(), signal.SIGKILL)
        return value(settings)

    JournalFileBackend.append_logs = append_half
    search(objective, SPACE, trials=trials, folder=folder, seed=3)
