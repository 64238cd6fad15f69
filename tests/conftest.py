import os
from collections.abc import Generator

import pytest

SKIPPED: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        SKIPPED.append(f"{item.nodeid}: {report.longrepr}")
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that did not run is a failure: it must not go unnoticed."""
    if os.environ.get("CI") and SKIPPED and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and SKIPPED:
        terminalreporter.section("skipped, which CI forbids")
        for line in SKIPPED:
            terminalreporter.line(line)
