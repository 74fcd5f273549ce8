"""The whole instrument on tiny models: that it counts and cleans up, never how fast anything is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fuse.mount import fuse_mounts

_MIB = 1 << 20

pytestmark = pytest.mark.timeout(600)  # some dozen processes, one after the other


def bench(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    program = "from snapshotter.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "bench", "--size", "16MiB", "--repeat", "1", *arguments],
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(directory: Path) -> list[str]:
    """Files, mounts and processes of a benchmark that ran in ``directory``."""
    found = [str(path) for path in directory.iterdir()]
    found += [
        str(mount.mount_point)
        for mount in fuse_mounts()
        if mount.mount_point.is_relative_to(directory)
    ]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"TMPDIR={directory}\0".encode() in environment:
            found.append(command.decode())
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "bench"
    directory.mkdir()
    return directory


def measured(report: dict[str, Any], case: str, measure: str) -> list[float]:
    """The medians of ours."""
    (found,) = [each for each in report["cases"] if each["name"] == case]
    assert not found["failed"]
    return [
        contender["summary"][measure]["median"]
        for trial in found["trials"]
        for contender in trial["contenders"]
        if contender["ours"]
    ]


def test_two_cases_count_what_was_fetched_and_leave_nothing(place: Path, tmp_path: Path) -> None:
    document, page = tmp_path / "report.json", tmp_path / "report.html"
    process = bench(
        place, "shared", "random-4k", "--rtt", "0,1",
        "--json", str(document), "--html", str(page),
    )  # fmt: skip
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    report = json.loads(document.read_text())
    shared = measured(report, "shared", "fetched_ratio")
    assert len(shared) == 3
    assert all(0.99 < share < 1.1 for share in shared)
    assert measured(report, "shared", "bytes")[0] > 2 * 16 * _MIB * 0.99
    lone = measured(report, "random-4k", "fetched_each")
    assert len(lone) == 2
    assert all(each <= 128 << 10 for each in lone)
    assert page.read_text().startswith("<!doctype html>")
    assert left_behind(place) == []


def test_a_benchmark_that_is_stopped_while_it_reads_leaves_nothing(place: Path) -> None:
    process = bench(place, "cold-whole", "--rtt", "1", "--rate", "1MiB")
    deadline = time.monotonic() + 300
    while not any(mount.mount_point.is_relative_to(place) for mount in fuse_mounts()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output
    assert left_behind(place) == []
