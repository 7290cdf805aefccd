"""Commands as the tests give them, and what comes of it: what is printed, or the one line that says what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiling import UNOPTIMISED
from train.cli import main


def run(*arguments):
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        main([str(argument) for argument in arguments])
    return out.getvalue()


def parsed(*arguments):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(run(*arguments, "--json"), parse_constant=refuse)


def error(*arguments):
    """The one line that ends a command which cannot do what it is told."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = caught.value.code
    assert isinstance(message, str), "a message goes to stderr and makes the exit status 1"
    assert message.startswith("zoo: error: ")
    return message


def usage_error(*arguments):
    """What tyro says of a command line that it cannot read; exit status 2."""
    err = io.StringIO()
    with pytest.raises(SystemExit) as caught, contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    assert "Traceback" not in err.getvalue()
    return err.getvalue()


def python(*arguments, cwd):
    environment = {**os.environ, **UNOPTIMISED, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
