"""The keeper as a process: small, alone, replaced when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.keeping import Keeping
from snapshotter.keeper.link import Link, NoKeeper, cgroup_file, start_keeper
from snapshotter.keeper.options import KeeperOptions

Service: TypeAlias = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "keeper.sock"
    yield path
    try:
        link = Link(path)
    except NoKeeper:
        return
    link.ask("quit")
    link.close()


@pytest.fixture
def keeping(address: Path) -> Iterator[Keeping]:
    keeping = Keeping(address, KeeperOptions(cgroup=""))
    yield keeping
    keeping.close()


def until(happened: Callable[[], object]) -> None:
    while not happened():
        time.sleep(0.01)


def test_a_started_keeper_is_small_and_in_a_session_of_its_own(address: Path) -> None:
    start_keeper(address, None)
    link = Link(address)
    assert os.getsid(link.pid) != os.getsid(0)
    pages = int(Path(f"/proc/{link.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 20 << 20
    start_keeper(address, None)  # another is there: all is well
    again = Link(address)
    assert again.pid == link.pid
    link.close()
    again.close()


def test_what_is_held_outlives_the_one_who_held_it(address: Path, tmp_path: Path) -> None:
    first = Keeping(address, KeeperOptions(cgroup=""))
    reading, writing = os.pipe()
    first.hold("a", "record", [writing])
    os.close(writing)
    first.close()
    second = Keeping(address, KeeperOptions(cgroup=""))
    (held,) = second.inherited
    assert (held.id, held.record) == ("a", "record")
    os.write(held.files[0], b"still open")
    assert os.read(reading, 100) == b"still open"
    second.drop("a")
    os.close(held.files[0])
    assert os.read(reading, 100) == b""  # nobody has the other end any more
    second.close()
    os.close(reading)


def test_a_killed_keeper_is_replaced_and_gets_everything(keeping: Keeping, address: Path) -> None:
    reading, writing = os.pipe()
    keeping.hold("a", "record", [writing])
    for _ in range(3):
        before = keeping.describe()["pid"]
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: keeping.describe().get("pid", before) != before)
        link = Link(address)
        assert link.ids() == ["a"]
        link.close()
    os.close(reading)
    os.close(writing)


def test_what_is_handed_over_while_no_keeper_is_there_is_kept_by_the_next(
    keeping: Keeping, address: Path
) -> None:
    os.kill(keeping.describe()["pid"], signal.SIGKILL)
    reading, writing = os.pipe()
    keeping.hold("a", "record", [writing])
    until(lambda: keeping.holding and _ids(address) == ["a"])
    keeping.drop("a")
    assert _ids(address) == []
    os.close(reading)
    os.close(writing)


def _pid(address: Path) -> int:
    try:
        link = Link(address)
    except KeeperError:
        return 0
    link.close()
    return link.pid


def _ids(address: Path) -> list[str]:
    try:
        link = Link(address)
    except KeeperError:
        return []
    try:
        return link.ids()
    except KeeperError:
        return []
    finally:
        link.close()


def test_a_keeper_that_hangs_is_no_reason_to_take_its_mounts_for_dead(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_keeper(address, None)
    link = Link(address)
    monkeypatch.setattr("snapshotter.keeper.link._PATIENCE", 0.2)
    os.kill(link.pid, signal.SIGSTOP)
    try:
        with pytest.raises(KeeperError, match="does not answer"):
            Keeping(address, KeeperOptions(cgroup=""))
    finally:
        os.kill(link.pid, signal.SIGCONT)
        link.close()


def test_a_keeper_that_was_told_to_end_has_let_go_of_everything(address: Path) -> None:
    start_keeper(address, None)
    link = Link(address)
    reading, writing = os.pipe2(os.O_NONBLOCK)
    link.ask("put", [writing], id="a", record="record")
    os.close(writing)
    link.quit()
    link.close()
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    assert not address.exists()
    os.close(reading)


def test_a_keeper_that_cannot_be_started_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeeperError, match=r"cannot start a keeper: .*File exists"):
        start_keeper(tmp_path / "file" / "keeper.sock", None)


def test_its_control_group_is_one_of_the_unified_hierarchy() -> None:
    mountinfo = (
        "30 1 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n"
        "31 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    procs = Path("/sys/fs/cgroup/unified/keeper/cgroup.procs")
    assert cgroup_file("keeper", mountinfo) == procs
    assert cgroup_file("", mountinfo) is None
    assert cgroup_file("keeper", "") is None


@pytest.fixture
def service(address: Path) -> Iterator[Service]:
    """Starts a keeper as its unit does; returns once it has said to systemd that it is ready."""
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"{address}.notify")
        told.settimeout(30)

        def start() -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "snapshotter.keeper.server", "--socket", str(address)],
                    env={**os.environ, "NOTIFY_SOCKET": f"{address}.notify"},
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert told.recv(100) == b"READY=1"
            return process

        yield start


def test_a_keeper_that_is_a_service_listens_when_it_is_ready(
    address: Path, service: Service
) -> None:
    process = service()
    link = Link(address)
    assert (link.pid, link.lingers) == (process.pid, False)
    link.close()


def test_a_service_that_is_started_again_is_waited_for(
    address: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snapshotter.keeper.keeping._SERVICE", 60)
    first = service()
    keeping = Keeping(address, KeeperOptions(cgroup=""))
    reading, writing = os.pipe()
    keeping.hold("a", "record", [writing])
    first.send_signal(signal.SIGTERM)
    first.wait()
    second = service()
    until(lambda: keeping.describe().get("pid", first.pid) != first.pid)
    assert keeping.describe()["pid"] == second.pid
    assert _ids(address) == ["a"]
    keeping.close()
    os.close(reading)
    os.close(writing)


def test_a_service_that_does_not_come_again_is_replaced(
    address: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snapshotter.keeper.keeping._SERVICE", 0.2)
    first = service()
    keeping = Keeping(address, KeeperOptions(cgroup=""))
    first.kill()
    first.wait()
    until(lambda: keeping.describe().get("pid", first.pid) != first.pid)
    link = Link(address)
    assert link.lingers
    link.close()
    keeping.close()


def test_a_service_that_finds_another_keeper_is_the_next_one(
    address: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_keeper(address, None)
    keeping = Keeping(address, KeeperOptions(cgroup=""))
    reading, writing = os.pipe()
    keeping.hold("a", "record", [writing])
    waiting = service()
    assert waiting.stderr is not None
    assert "another one listens" in waiting.stderr.readline()
    assert keeping.describe()["pid"] != waiting.pid

    def start_when_it_listens(address: Path, cgroup: Path | None) -> None:
        until(lambda: _pid(address) == waiting.pid)
        start_keeper(address, cgroup)

    monkeypatch.setattr("snapshotter.keeper.keeping.start_keeper", start_when_it_listens)
    os.kill(keeping.describe()["pid"], signal.SIGKILL)

    until(lambda: keeping.describe().get("pid") == waiting.pid)
    assert _ids(address) == ["a"]
    keeping.close()
    os.close(reading)
    os.close(writing)
