"""The units as systemd runs them: what is mounted stays, whichever of the two is restarted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS
from integration.harness.systemd import DAEMON, KEEPER, DaemonService, SystemdMachine
from integration.models import push_model, read_sums, sums_command


@pytest.fixture
def machine() -> Iterator[SystemdMachine]:
    with SystemdMachine() as machine:
        yield machine


@pytest.fixture
def service(machine: SystemdMachine, places: Places) -> Iterator[DaemonService]:
    with DaemonService(machine, places) as service:
        yield service


@pytest.fixture
def read(service: DaemonService, registry: Registry) -> Iterator[Callable[[], None]]:
    """A model is mounted, of which nothing was read; to call it reads all, and compares."""
    model = push_model(service, registry)
    machine, target = service.machine, str(service.machine.directory("mounted"))
    with Containerd(machine, releases()[0], service.places) as containerd:
        service.modelpack("pull", "--as", "stub", model.tag)
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)

        def read() -> None:
            listing = machine.run(["sh", "-c", sums_command(target)]).stdout
            assert read_sums(listing, target) == model.sums

        yield read


def until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.02)


def another(machine: SystemdMachine, before: int) -> bool:
    return machine.main_pid(KEEPER) not in (0, before)


def holder(service: DaemonService) -> int:
    """The keeper that holds the mount; 0: none does."""
    keeper = service.status()["keeper"]
    assert keeper["holds"] == 1
    return int(keeper.get("pid", 0))


@pytest.mark.parametrize("how", [("restart",), ("kill", "--signal=KILL")], ids=" ".join)
def test_a_mount_outlives_its_keeper_and_its_daemon(
    service: DaemonService, read: Callable[[], None], how: tuple[str, ...]
) -> None:
    machine = service.machine
    for _ in range(3):
        before = machine.main_pid(KEEPER)
        machine.systemctl(*how, KEEPER)
        until(partial(another, machine, before), "a keeper")
        until(lambda: holder(service) == machine.main_pid(KEEPER), "the mount at the unit's keeper")

    before = machine.main_pid(DAEMON)
    machine.systemctl(*how, DAEMON)
    read()
    assert machine.main_pid(DAEMON) not in (0, before)
    assert holder(service) == machine.main_pid(KEEPER)


def test_the_units_keeper_follows_one_that_the_daemon_had_to_start(
    service: DaemonService, read: Callable[[], None]
) -> None:
    machine = service.machine
    machine.systemctl("stop", KEEPER)
    until(lambda: holder(service), "a keeper that the daemon started")
    machine.systemctl("start", KEEPER)
    assert holder(service) != machine.main_pid(KEEPER)

    def followed() -> bool:
        if (pid := holder(service)) == machine.main_pid(KEEPER):
            return True
        if pid:
            machine.run(["kill", "-KILL", str(pid)], check=False)
        return False

    until(followed, "the mount at the unit's keeper")
    read()


def test_all_ends_when_the_service_is_taken_away(
    service: DaemonService, read: Callable[[], None]
) -> None:
    """As docs/install.md has it."""
    machine = service.machine
    read()
    machine.systemctl("stop", DAEMON)
    places = service.places
    assert any(mount.startswith(f"{places.state}/mounts/") for mount in machine.mounts())
    machine.run(
        [f"{PROGRAMS}/modelpack-snapshotter", "--config", str(service.configuration), "--unmount"]
    )
    machine.systemctl("stop", KEEPER)
    assert not any(mount.startswith(f"{places.state}/mounts/") for mount in machine.mounts())
    assert machine.systemctl("list-units", "--failed", "--plain", "--no-legend") == ""
