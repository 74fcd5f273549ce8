"""The keeper: what is found, and how it is judged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_facts import names

from snapshotter.doctor.finding import Level
from snapshotter.doctor.keeper import KeeperFacts, gather, judge, shared_cgroup
from snapshotter.keeper.link import Link

ADDRESS = Path("/run/modelpack-snapshotter/keeper.sock")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    """Where a keeper listens."""
    address = tmp_path / "keeper.sock"
    argv = [sys.executable, "-m", "snapshotter.keeper.server", "--socket", str(address)]
    subprocess.run([*argv, "--linger", "--background"], check=True, timeout=60)
    yield address
    link = Link(address)
    link.ask("quit")
    link.close()


def test_a_keeper_that_runs_is_asked_what_it_holds(address: Path) -> None:
    link = Link(address)
    with open(os.devnull) as file:
        link.ask("put", [file.fileno()], id="a", record="")
    link.close()
    facts = gather(True, address, runs=True, daemon=None)
    assert (facts.holds, facts.failure) == (1, "")
    assert names(judge(facts), Level.OK) == {"keeper-runs"}


def test_a_keeper_that_holds_mounts_for_nobody_is_an_error_and_one_that_holds_none_is_none(
    address: Path,
) -> None:
    assert names(judge(gather(True, address, runs=False, daemon=None)), Level.ERROR) == set()
    waiting = KeeperFacts(True, ADDRESS, daemon=False, pid=2, holds=3)
    (found,) = judge(waiting)
    assert (found.level, "holds 3 mounts" in found.what) == (Level.ERROR, True)


def test_without_a_keeper_a_daemon_is_in_danger(tmp_path: Path) -> None:
    facts = gather(True, tmp_path / "keeper.sock", runs=True, daemon=None)
    assert names(judge(facts), Level.ERROR) == {"keeper-runs"}
    facts = gather(True, tmp_path / "keeper.sock", runs=False, daemon=None)
    assert names(judge(facts), Level.OK) == {"keeper-runs"}
    facts = gather(False, tmp_path / "keeper.sock", runs=True, daemon=None)
    assert names(judge(facts), Level.WARNING) == {"keeper-runs"}


def test_something_else_on_the_keepers_socket_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keeper.sock").write_text("")
    facts = gather(True, tmp_path / "keeper.sock", runs=True, daemon=None)
    assert names(judge(facts), Level.ERROR) == {"keeper-runs"}


def test_a_keeper_that_ends_with_the_daemon_is_a_warning() -> None:
    facts = KeeperFacts(True, ADDRESS, daemon=True, pid=2, shared_cgroup="/kubepods/pod1")
    assert names(judge(facts), Level.WARNING) == {"keeper-cgroup"}


def test_a_keeper_that_has_copies_of_all_mounts_is_an_error() -> None:
    facts = KeeperFacts(True, ADDRESS, daemon=True, pid=2, own_namespace=True)
    assert names(judge(facts), Level.ERROR) == {"keeper-namespace"}


@pytest.mark.parametrize(
    ("keeper", "daemon", "group"),
    [
        ("0::/system.slice/modelpack-keeper.service", "0::/system.slice/d.service", ""),
        ("0::/kubepods/pod1", "0::/kubepods/pod1", "/kubepods/pod1"),
        ("0::/", "0::/", ""),
        ("4:memory:/\n1:name=systemd:/a\n0::/", "4:memory:/\n1:name=systemd:/a\n0::/", "/a"),
    ],
)
def test_one_control_group_is_told_from_two(keeper: str, daemon: str, group: str) -> None:
    assert shared_cgroup(keeper, daemon) == group
