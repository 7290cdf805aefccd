"""A plugin of pytest that says at once why a test failed: a run that is stopped has no summary."""

from __future__ import annotations

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        print(f"\nREASON {report.nodeid}\n{report.longreprtext[-3000:]}", flush=True)
