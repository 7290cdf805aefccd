"""Where the command `zoo` starts, and how Python finds `data`, `train` and `zoo`.

A file `train.py` in the working directory, or a folder `data` with an `__init__.py`, hides our package of the same
name. Of our three packages the first that is imported runs this file, and from then on a name that is hidden is one
error, which says what to rename. The command itself takes our packages, whatever lies beside it: what starts it here,
`train/cli/flaxzoo.py`, is installed as a module of its own, whose name nobody's file has.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType
from typing import Any

NAMES = ("data", "train", "zoo")


class OurPackages:
    """A finder of Python's import system for our three names.

    Args:
      root: the folder that our packages are in.
      whatever_hides: whether ours are taken also where others come first on the path.
    """

    def __init__(self, root: str, *, whatever_hides: bool):
        self._root = root
        self._whatever_hides = whatever_hides

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Ours, or None for Python to go on.

        Raises:
          ImportError: something else has the name, and comes first.
        """
        if name not in NAMES:
            return None
        ours, found = PathFinder.find_spec(name, [self._root]), PathFinder.find_spec(name)
        if ours is None or found is None or _same(found.origin, ours.origin):
            return None
        if self._whatever_hides:
            return ours
        raise ImportError(_hidden(name, found.origin))


def _same(first: str | None, second: str | None) -> bool:
    return first is not None and second is not None and Path(first).resolve() == Path(second).resolve()


def _hidden(name: str, by: str | None) -> str:
    path = Path(by or name)
    there = path.parent if path.name == "__init__.py" else path
    return f"{there} hides the package {name!r} of flaxzoo: rename it, or start Python in another folder"


def require_ours(root: Path) -> None:
    """From now on `data`, `train` and `zoo` are ours, or an error.

    Raises:
      ImportError: one of them is imported already, and is not ours.
    """
    for name in NAMES:
        found, ours = getattr(sys.modules.get(name), "__file__", None), root / name / "__init__.py"
        if found is not None and ours.is_file() and not _same(found, str(ours)):
            raise ImportError(_hidden(name, found))
    if not any(type(finder).__name__ == OurPackages.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, OurPackages(str(root), whatever_hides=False))


def main() -> None:
    """The command `zoo`."""
    gc.set_threshold(20_000, 20, 20)  # imports make much and drop little; looking for it took a tenth of a start
    here = Path(__file__).resolve().parents[1]
    places = [here, *map(Path, sys.path)]
    root = next((place for place in places if all((place / name / "__init__.py").is_file() for name in NAMES)), here)
    sys.meta_path.insert(0, OurPackages(str(root), whatever_hides=True))
    from train.launch import interruption_heard

    interruption = _Interruption(interruption_heard)
    signal.signal(signal.SIGINT, lambda _, frame: interruption.arrive(frame))
    sys.unraisablehook = _tell_but_of_interruptions
    try:
        from train.cli import main

        main()
    except KeyboardInterrupt as error:
        print(f"\nzoo: interrupted{error}", file=sys.stderr, flush=True)
        os._exit(_INTERRUPTED)  # at once: what the threads of libraries still do must not end it in another way


_INTERRUPTED, _AGAIN_AFTER = 130, 1.0
"""The exit status of a program that Ctrl-C has ended, and seconds until it comes again where nobody has heard it."""

_WHILE_IMPORTING, _LONGEST_IMPORT = 0.1, 5.0
"""Seconds until it comes again where a module is being imported, and until it ends even that."""


def _tell_but_of_interruptions(dropped: Any) -> None:
    """What Python does with an exception that it drops; Ctrl-C comes again, and is told of then."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)


class _Interruption:
    """Ctrl-C, which comes again until it is heard.

    Python drops it in callbacks of its garbage collector. Libraries drop it while they are imported, or crash: there it
    waits for the end of the import.
    """

    def __init__(self, heard: threading.Event):
        self._heard = heard
        self._first: float | None = None

    def arrive(self, frame: FrameType | None) -> None:
        self._first = time.monotonic() if self._first is None else self._first
        waits = _importing(frame) and time.monotonic() < self._first + _LONGEST_IMPORT
        timer = threading.Timer(_WHILE_IMPORTING if waits else _AGAIN_AFTER, self._again)
        timer.daemon = True
        timer.start()
        if not waits:
            raise KeyboardInterrupt

    def _again(self) -> None:
        if not self._heard.is_set():
            os.kill(os.getpid(), signal.SIGINT)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
