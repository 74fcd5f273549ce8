"""No secret comes out: held over everything that all tests and their programs write.

Every test is looked at when it has run: what it and the daemons inside of it printed and
logged. What programs of their own wrote is looked at when their directory is deleted
(integration/harness/machine.py), or here at the end; the list of processes all the time.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest
import structlog

from integration.harness.secrets import Guard, Watch

_guard = Guard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for name, text in report.sections:
        if report.passed and _guard.holds(text):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: a secret came out, {name.lower()}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_secret_comes_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    watch = Watch()
    watch.start()
    yield
    seen = watch.stop()
    assert not seen, f"secrets among the arguments of {', '.join(seen)}"
    signal.setitimer(signal.ITIMER_REAL, 0)  # the last test's timeout: this takes as long as all
    found = _guard.files(tmp_path_factory.getbasetemp())
    assert not found, f"secrets in {', '.join(map(str, found))}"


@pytest.fixture(autouse=True)
def _logs_as_a_library() -> Iterator[None]:
    """A command that a test runs in this process sets up logging for all that come after it."""
    yield
    structlog.reset_defaults()
