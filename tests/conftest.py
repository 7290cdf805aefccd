"""What every test runs under: eight CPU devices, no implicit rank promotion; and which tests are to be marked slow."""

import gc
import os
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("ZOO_TEST_PLATFORMS", "cpu")  # .ci/accelerator says "cuda,cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), f"flaxzoo-tests-{os.getuid()}")  # not the user's own

import jax
import pytest

from tests.compiling import compile_equal_programs_once

gc.disable()  # until all tests are imported: nothing of that is ever freed
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_disable_most_optimizations", True)
compile_equal_programs_once()


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Hundreds of compiled programs would fill gigabytes by the end."""
    yield
    jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What plain `pytest` leaves out, the first answer leaves out, too."""
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Neither the garbage collector nor the search for leaked tracers looks through what was imported again.

    To trace a program makes thousands of objects that live: collected as often as by default, they take a tenth of the
    time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


MOST = 30.0
"""Seconds of CPU time that a test may take which is not marked slow, also on a slow machine. Those of more than one are
marked."""

_BEGAN = pytest.StashKey[float]()


def _cpu_seconds():
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[_BEGAN] = _cpu_seconds()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    """With its fixtures, which are set up before it; the worker tells it with the report of the teardown."""
    if not item.get_closest_marker("slow"):
        item.user_properties.append(("cpu_seconds", _cpu_seconds() - item.stash[_BEGAN]))


def pytest_terminal_summary(terminalreporter):
    """Names those that belong marked: the first answer, `pytest -m "not slow"`, is to be short."""
    reports = [each for kind in ("", "error") for each in terminalreporter.getreports(kind)]
    for report in reports:
        for name, seconds in getattr(report, "user_properties", ()):  # a file that cannot be collected has none
            if name == "cpu_seconds" and report.when == "teardown" and seconds > MOST:
                line = f"NOT MARKED SLOW {report.nodeid}: {seconds:.0f} s of CPU time"
                terminalreporter.write_line(f"{line}, more than {MOST:.0f}; mark it with pytest.mark.slow")
