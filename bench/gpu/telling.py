"""A pytest plugin that writes each test's outcome to a file as soon as it is known: a hang loses no other."""

from __future__ import annotations

import json
import os

import pytest
from gpu.suites import OUTCOMES

LONGEST = 2000  # characters of why a test failed


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test is told once: at its call, or where it was skipped or failed before or behind that."""
    if report.when == "call" or report.outcome != "passed":
        tell(report.nodeid, report.outcome, report.longreprtext if report.failed else "")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported fails as a test would."""
    if report.failed:
        tell(report.nodeid, "failed", report.longreprtext)


def tell(test: str, outcome: str, why: str) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the process that gives out the tests tells it as well
    with open(os.environ[OUTCOMES], "a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "why": why[-LONGEST:]}) + "\n")
