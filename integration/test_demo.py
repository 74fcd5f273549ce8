"""script/demo shows what it promises, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.harness.machine import PREFIX, REPOSITORY
from integration.harness.model import write_model


def _demo(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "integration.demo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
    )


def _directories_of(pid: int) -> list[Path]:
    return [
        owner.parent
        for owner in list(Path("/var/tmp").glob(f"{PREFIX}*/owner"))
        if _text(owner) == str(pid)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""  # another run's, deleted meanwhile


def _run(*arguments: str | Path) -> tuple[int, str]:
    demo = _demo(*arguments)
    written, _ = demo.communicate(timeout=110)
    assert not _directories_of(demo.pid)
    return demo.returncode, written


def test_the_demo_of_a_model_that_it_makes(tmp_path: Path) -> None:
    status, written = _run("--size", "16MiB", "--json", tmp_path / "demo.json")

    assert status == 0, written
    numbers = json.loads((tmp_path / "demo.json").read_text())
    assert numbers["modelpack"]["fetched_at_start"] < 0.05
    assert numbers["modelpack"]["fetched_bytes"]["second"] == numbers["size_bytes"]
    assert numbers["modelpack"]["rss_anon_bytes"] < 150 << 20
    for way in ("modelpack", "overlayfs"):
        assert [*numbers[way]["seconds"]] == [
            *("pull", "start", "listing", "header", "tensor", "whole", "second")
        ]
    assert set(numbers["image_volumes"]) == {"tag", "digest"}


def test_the_demo_of_a_directory_of_ones_own(tmp_path: Path) -> None:
    write_model(tmp_path / "my model", 4 << 20)
    (tmp_path / "my model" / "chat templates").mkdir()
    (tmp_path / "my model" / "chat templates" / "tool use.jinja").write_text("{{ messages }}")

    status, written = _run(tmp_path / "my model")

    assert status == 0, written
    assert "a listing of 11 files" in written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_while_containers_run_leaves_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    numbers = tmp_path / "numbers"
    os.mkfifo(numbers)  # which nobody reads: it cannot end before it is stopped
    demo = _demo("--size", "16MiB", "--json", numbers)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "a shell answers" in line:
            break

    demo.send_signal(number)
    written, _ = demo.communicate(timeout=100)

    assert demo.returncode == 128 + number, written
    assert "Traceback" not in written
    assert not _directories_of(demo.pid)


def test_a_demo_without_room_on_the_disk_says_how_much_it_needs() -> None:
    status, written = _run("--size", "1000TiB")

    assert status == 1
    assert "free, a model of" in written


def test_a_demo_of_an_empty_directory_says_what_to_name(tmp_path: Path) -> None:
    status, written = _run(tmp_path)

    assert status == 1
    assert "holds no bytes: name a directory with a model's files" in " ".join(written.split())
