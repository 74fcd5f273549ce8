"""Nothing of a test run survives it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.harness.machine import REPOSITORY, CommandError, Machine
from integration.harness.processes import ProcessError

PREFIX = f"stopped-modelpack-{os.getpid()}-"
"""Of machines that no other run is to sweep."""
_A_RUN = f"""
import time
from integration.harness import machine
from integration.harness.machine import Machine
from integration.harness.processes import signals_unwind
machine.PREFIX = {PREFIX!r}
with signals_unwind() as resources:
    machine = resources.enter_context(Machine())
    sleeper = machine.start(["sh", "-c", "echo up; sleep 1000"], log="sleeper.log")
    sleeper.wait_until(lambda: "up" in sleeper.log.read_text(), "a word")
    print(machine.root, flush=True)
    time.sleep(1000)
"""


def _start_a_run() -> tuple[subprocess.Popen[str], Path]:
    run = subprocess.Popen(
        [sys.executable, "-c", _A_RUN], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert run.stdout is not None
    return run, Path(run.stdout.readline().strip())


def _programs_of(root: Path) -> list[str]:
    """Command lines of processes that have a file open below the directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [str(link.readlink()) for link in (process / "fd").iterdir()]
            if any(Path(path).is_relative_to(root) for path in opened):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it ended
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_stopped_cleans_up(number: signal.Signals) -> None:
    run, root = _start_a_run()
    assert any("sleep 1000" in line for line in _programs_of(root))

    run.send_signal(number)

    assert run.wait(60) == 128 + number
    run.communicate()
    assert not root.exists()
    assert not _programs_of(root)


def test_nothing_survives_a_run_that_is_killed_and_the_next_one_deletes_its_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("integration.harness.machine.PREFIX", PREFIX)
    run, root = _start_a_run()

    run.kill()
    run.communicate()

    deadline = time.monotonic() + 60
    while _programs_of(root) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _programs_of(root)
    assert root.exists()
    with Machine():
        assert not root.exists()


def test_run_is_empty_and_private(machine: Machine) -> None:
    machine.run(["touch", "/run/of-the-namespace"])
    assert machine.run(["ls", "/run"]).stdout == "of-the-namespace\n"
    assert machine.seen(Path("/run/of-the-namespace")).exists()
    assert not Path("/run/of-the-namespace").exists()


def test_a_command_that_fails_tells_its_status_and_what_it_wrote(machine: Machine) -> None:
    with pytest.raises(CommandError, match=r"cat /nowhere: status 1: .*No such file"):
        machine.run(["cat", "/nowhere"])


def test_a_program_that_ends_instead_of_getting_ready_is_an_error(machine: Machine) -> None:
    process = machine.start(["sh", "-c", "echo cannot >&2; exit 3"], log="sh.log")
    with pytest.raises(ProcessError, match=r"sh ended before an answer\n +cannot"):
        process.wait_until(lambda: False, "an answer")


def test_a_program_that_ignores_sigterm_is_killed(machine: Machine) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    process = machine.start(["sh", "-c", script], log="stubborn.log")
    process.wait_until(lambda: "up" in process.log.read_text(), "a word")

    process.stop(seconds=0.2)

    assert not process.running
