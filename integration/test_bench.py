"""The benchmark beside a real containerd and its snapshotters: counts and leavings, never times."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness.containerd import Containerd, Release
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.snapshotter import PROGRAMS

_OURS, _OVERLAYFS, _NATIVE = "modelpack", "containerd overlayfs", "containerd native"


@pytest.fixture
def bare_containerd(machine: Machine, places: Places, release: Release) -> Iterator[Containerd]:
    with Containerd(machine, release, places) as containerd:
        yield containerd


def bench(containerd: Containerd, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it where this containerd is, with what it leaves checked by :func:`left_in`."""
    return containerd.machine.run(
        [
            str(PROGRAMS / "modelpack"),
            "bench",
            *("--size", "16MiB", "--repeat", "1", "--rtt", "0"),
            *("--containerd", str(containerd.address)),
            *arguments,
        ],
        environment=containerd.environment,
        seconds=200,
    )


def left_in(containerd: Containerd) -> list[str]:
    """Namespaces of the benchmark in containerd, and its files."""
    found = [name for name in containerd.ctr("namespaces", "ls", "-q").split() if "bench" in name]
    return [*found, *map(str, containerd.machine.directory("tmp").glob("modelpack-bench-*"))]


def trials_of(document: Path, case: str) -> list[dict[str, Any]]:
    (found,) = json.loads(document.read_text())["cases"]
    assert found["name"] == case
    assert not found["failed"]
    trials: list[dict[str, Any]] = found["trials"]
    return trials


def test_a_model_is_read_through_every_snapshotter_that_is_named(
    bare_containerd: Containerd, tmp_path: Path
) -> None:
    document = tmp_path / "report.json"

    bench(bare_containerd, "cold-whole", "--against", "native", "--json", str(document))

    for trial in trials_of(document, "cold-whole"):
        contenders = {each["name"]: each for each in trial["contenders"]}
        assert {name: each["failed"] for name, each in contenders.items()} == dict.fromkeys(
            contenders, ""
        )
        assert {_OURS, _OVERLAYFS, _NATIVE} < set(contenders)
        read = {each["summary"]["bytes"]["median"] for each in contenders.values()}
        assert len(read) == 1
        against = {each["baseline"] for each in trial["comparisons"]}
        assert {_OVERLAYFS, _NATIVE} < against
    assert left_in(bare_containerd) == []


def test_every_call_of_the_snapshotters_is_made_and_taken_back(
    bare_containerd: Containerd, tmp_path: Path
) -> None:
    document = tmp_path / "report.json"

    bench(bare_containerd, "snapshots", "--json", str(document))

    trials = trials_of(document, "snapshots")
    assert [trial["title"] for trial in trials] == ["Prepare", "View", "Mounts", "Commit", "Remove"]
    for trial in trials:
        calls = {each["name"]: each["summary"]["calls"]["median"] for each in trial["contenders"]}
        expected = 1600 if trial["title"] == "Remove" else 800
        assert calls == {_OURS: expected, _OVERLAYFS: expected}
    assert left_in(bare_containerd) == []


def test_a_snapshotter_that_containerd_does_not_have_fails_alone(
    bare_containerd: Containerd, tmp_path: Path
) -> None:
    document = tmp_path / "report.json"

    bench(bare_containerd, "cold-whole", "--against", "nonesuch", "--json", str(document))

    trial = trials_of(document, "cold-whole")[0]
    failed = {each["name"]: each["failed"] for each in trial["contenders"] if each["failed"]}
    assert list(failed) == ["containerd nonesuch"]
    assert "nonesuch" in failed["containerd nonesuch"]
    assert left_in(bare_containerd) == []


def test_without_the_containerd_that_was_named_it_ends_with_a_reason(machine: Machine) -> None:
    with pytest.raises(CommandError, match="nowhere") as caught:
        machine.run(
            [str(PROGRAMS / "modelpack"), "bench", "snapshots", "--containerd", "/nowhere.sock"],
            seconds=60,
        )
    assert caught.value.status == 1
