"""Killed at any write, and refused any write: what was answered is there, nothing is half there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.harness.machine import Machine
from integration.harness.snapshot_storm import Expected, Known, NoModels, apply, replay
from integration.harness.snapshots import mounted
from proto.containerd.types.mount_pb2 import Mount as MountMessage
from snapshotter.snapshots.errors import NotFound
from snapshotter.snapshots.overlay import Mount
from snapshotter.snapshots.snapshot import Snapshot
from snapshotter.snapshots.snapshotter import Snapshotter

WRITES = "pwrite64,fdatasync,fsync,ftruncate,mkdir,chmod,rmdir,unlink,unlinkat,rename"
"""Every call by which the metadata and the directories of snapshots change."""


def storm(root: Path, seed: str, inject: str) -> tuple[int, list[str]]:
    """Run one with a fault; its status and what it said."""
    ended = subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null"),
            *("-e", f"trace={WRITES}", "-e", f"inject={inject}"),
            *(sys.executable, "-m", "integration.harness.snapshot_storm", str(root), seed),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stdout.splitlines()


def check(root: Path, expected: Expected, work: Path) -> None:
    """A new life finds what it must, and goes on."""
    snapshots = Snapshotter(root, NoModels())
    try:
        found = {each.name: known(each) for each in snapshots.walk([])}
        for under_way in expected.under_way:
            after = dict(expected.there)
            apply(after, under_way)
            names = {under_way["name"], under_way.get("key", under_way["name"])}
            state = {name: found.get(name) for name in names}
            assert state in (
                {name: expected.there.get(name) for name in names},
                {name: after.get(name) for name in names},
            ), under_way
            for name in names:
                expected.there.pop(name, None)
                if found.get(name) is not None:
                    expected.there[name] = found[name]
        assert found == expected.there

        snapshots.cleanup()
        layers = {str(each.id) for each in snapshots.walk([]) if each.has_layer}
        assert {path.name for path in (root / "snapshots").iterdir()} == layers

        for name, (kind, parent, _) in found.items():
            if kind == "committed":
                mount = snapshots.view("looking", name, {})
                with mounted([message(mount)], work) as directory:
                    assert (directory / name).read_text() == f"{name} key"
                snapshots.remove("looking")
            else:
                with mounted([message(snapshots.mounts(name))], work) as directory:
                    assert not parent or (directory / parent).exists()
        snapshots.prepare("goes on", "", {})
        snapshots.remove("goes on")
        with pytest.raises(NotFound):
            snapshots.stat("goes on")
    finally:
        snapshots.close()


def known(snapshot: Snapshot) -> Known:
    return snapshot.kind.name.lower(), snapshot.parent, dict(snapshot.labels)


def message(mount: Mount) -> MountMessage:
    return MountMessage(type=mount.type, source=mount.source, options=mount.options)


ROUNDS = 28


def faults(kind: str) -> Callable[[int], str]:
    """The fault of each round: the n-th call of a thread, early ones first, then further apart."""
    return lambda n: f"{WRITES}:{kind}:when={n + 1 if n < 20 else (n - 19) * 7 + 20}"


def test_killed_at_any_write_it_finds_what_it_answered() -> None:
    with Machine() as machine:
        work, kills = machine.directory("work"), 0
        for n in range(ROUNDS):
            root = machine.root / f"root-{n}"
            status, said = storm(root, f"first{n}", faults("signal=SIGKILL")(n))
            kills += status != 0
            check(root, replay(said), work)
        assert kills > ROUNDS // 2


def test_killed_again_and_again_one_root_stays_whole() -> None:
    with Machine() as machine:
        root, work = machine.root / "root", machine.directory("work")
        lines: list[str] = []
        for n in range(8):
            _, said = storm(root, f"life{n}", faults("signal=SIGKILL")(4 * n))
            expected = replay(lines + said)
            check(root, expected, work)
            lines = said_of(expected)


def said_of(expected: Expected) -> list[str]:
    """Lines that say what is there now."""
    lines = []
    for name, (kind, parent, labels) in sorted(expected.there.items(), key=lambda each: each[0]):
        made = {"do": "view" if kind == "view" else "prepare", "name": name}
        if kind == "committed":
            made["name"] = f"{name} key"
        lines.append(json.dumps({"thread": 0, **made, "parent": parent, "labels": labels}))
        lines.append(json.dumps({"thread": 0, "done": True}))
        if kind == "committed":
            commit = {"do": "commit", "name": name, "key": f"{name} key", "labels": labels}
            lines += [json.dumps({"thread": 0, **commit}), json.dumps({"thread": 0, "done": True})]
    return lines


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_write_that_fails_refuses_its_call_and_no_other(error: str) -> None:
    with Machine() as machine:
        work, refused = machine.directory("work"), 0
        for n in range(ROUNDS // 4):
            root = machine.root / f"root-{n}"
            fault = faults(f"error={error}")(n * 3)
            _, said = storm(root, f"{error}{n}", fault)
            refused += sum('"done": false' in line for line in said)
            check(root, replay(said), work)
        assert refused
