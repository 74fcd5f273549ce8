"""containerd's contract of a snapshotter, held by the daemon: states, errors, labels, filters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.snapshots import Snapshots, code_of, mounted
from integration.harness.snapshotter import Snapshotter
from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api

CLIENTS = 16


@pytest.fixture(scope="module")
def daemon() -> Iterator[Snapshotter]:
    with Machine() as machine, Snapshotter(machine, Places.of(machine)) as daemon:
        yield daemon


@pytest.fixture
def address(daemon: Snapshotter) -> Path:
    return daemon.places.state / "snapshotter.sock"


@pytest.fixture
def work(daemon: Snapshotter) -> Path:
    return daemon.machine.directory("work")


@pytest.fixture
def client(address: Path) -> Iterator[Snapshots]:
    """Afterwards no snapshot is left."""
    with Snapshots(address) as client:
        yield client
        for info in client.list()[::-1]:
            remove_with_children(client, info.name)


def remove_with_children(client: Snapshots, name: str) -> None:
    for child in client.list(f'parent=="{name}"'):
        remove_with_children(client, child.name)
    code_of(client.remove, name)


@pytest.fixture
def states(client: Snapshots, work: Path) -> Snapshots:
    """One snapshot in each state: committed below and above, active and view on either."""
    client.layer("below", "", work / "l")
    client.layer("above", "below", work / "l")
    client.prepare("active", "above", {"l": "1"})
    client.prepare("active-alone")
    client.view("view", "above", {"l": "2"})
    client.view("view-alone")
    return client


CODES = {
    "prepare": {
        "missing": "OK",
        "active": "ALREADY_EXISTS",
        "view": "ALREADY_EXISTS",
        "above": "ALREADY_EXISTS",
        "below": "ALREADY_EXISTS",
        "": "INVALID_ARGUMENT",
    },
    "view": {
        "missing": "OK",
        "active": "ALREADY_EXISTS",
        "view": "ALREADY_EXISTS",
        "above": "ALREADY_EXISTS",
        "": "INVALID_ARGUMENT",
    },
    "on": {
        "missing": "NOT_FOUND",
        "active": "INVALID_ARGUMENT",
        "active-alone": "INVALID_ARGUMENT",
        "view": "INVALID_ARGUMENT",
        "above": "OK",
        "below": "OK",
        "": "OK",
    },
    "mounts": {
        "missing": "NOT_FOUND",
        "active": "OK",
        "active-alone": "OK",
        "view": "OK",
        "view-alone": "OK",
        "above": "FAILED_PRECONDITION",
        "": "NOT_FOUND",
    },
    "commit": {
        "missing": "NOT_FOUND",
        "active": "OK",
        "active-alone": "OK",
        "view": "FAILED_PRECONDITION",
        "view-alone": "FAILED_PRECONDITION",
        "above": "FAILED_PRECONDITION",
    },
    "commit to": {
        "below": "ALREADY_EXISTS",
        "view": "ALREADY_EXISTS",
        "active": "ALREADY_EXISTS",
        "active-alone": "ALREADY_EXISTS",
        "": "INVALID_ARGUMENT",
        "missing": "OK",
    },
    "remove": {
        "missing": "NOT_FOUND",
        "above": "FAILED_PRECONDITION",
        "below": "FAILED_PRECONDITION",
        "active": "OK",
        "view": "OK",
        "view-alone": "OK",
    },
    "stat": {"missing": "NOT_FOUND", "active": "OK", "view": "OK", "above": "OK"},
    "usage": {"missing": "NOT_FOUND", "active": "OK", "view": "OK", "above": "OK"},
    "update": {"missing": "NOT_FOUND", "active": "OK", "view": "OK", "above": "OK"},
}
CALLS: dict[str, Callable[[Snapshots, str], object]] = {
    "prepare": lambda client, name: client.prepare(name, "above"),
    "view": lambda client, name: client.view(name, "above"),
    "on": lambda client, name: (
        client.prepare(f"active on {name}", name),
        client.view(f"view on {name}", name),
    ),
    "mounts": lambda client, name: client.mounts(name),
    "commit": lambda client, name: client.commit(f"{name} committed", name),
    "commit to": lambda client, name: client.commit(name, "active-alone"),
    "remove": lambda client, name: client.remove(name),
    "stat": lambda client, name: client.stat(name),
    "usage": lambda client, name: client.usage(name),
    "update": lambda client, name: client.update(api.Info(name=name, labels={"x": "y"})),
}


@pytest.mark.parametrize("call", CODES)
def test_every_call_answers_every_state_with_its_code(call: str, states: Snapshots) -> None:
    for name, code in CODES[call].items():
        before = states.list()
        assert code_of(CALLS[call], states, name) == code, (call, name)
        if code != "OK":
            assert states.list() == before, f"{call} {name} was refused, and changed something"


def test_a_commit_gives_the_snapshot_another_name_and_nothing_else(
    client: Snapshots, work: Path
) -> None:
    client.prepare("key", labels={"of": "key"})
    with mounted(client.mounts("key"), work / "m") as directory:
        (directory / "file").write_text("x")
    client.commit("name", "key", {"of": "name"})
    assert [info.name for info in client.list()] == ["name"]
    assert dict(client.stat("name").labels) == {"of": "name"}
    client.prepare("key", "name")  # the key is free again
    with mounted(client.mounts("key"), work / "m") as directory:
        assert (directory / "file").read_text() == "x"


def test_labels_are_replaced_changed_and_removed_by_their_paths(client: Snapshots) -> None:
    client.prepare("a", labels={"a": "1", "b.c/d": "2", "gone": "3", "empty": ""})
    made = client.stat("a")
    assert dict(made.labels) == {"a": "1", "b.c/d": "2", "gone": "3"}

    def updated(labels: dict[str, str], *paths: str) -> dict[str, str]:
        after = client.update(api.Info(name="a", labels=labels, kind=api.VIEW), *paths)
        assert (after.kind, after.parent, after.created_at) == (api.ACTIVE, "", made.created_at)
        assert after == client.stat("a")
        return dict(after.labels)

    assert updated({"a": "x", "new": "y"}, "labels.a", "labels.gone") == {"a": "x", "b.c/d": "2"}
    assert updated({"b.c/d": "z"}, "labels.b.c/d") == {"a": "x", "b.c/d": "z"}
    assert updated({"only": "1"}, "labels") == {"only": "1"}
    assert updated({"all": "1"}) == {"all": "1"}
    assert updated({}) == {}
    for path in ("name", "kind", "parent", "created_at", "label", "labelsa", ""):
        refused = code_of(client.update, api.Info(name="a", labels={"n": "o"}), "labels.n", path)
        assert refused == "INVALID_ARGUMENT", path
    assert dict(client.stat("a").labels) == {}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], ["above", "active", "active-alone", "below", "view", "view-alone"]),
        (["kind==committed"], ["above", "below"]),
        (["kind!=committed"], ["active", "active-alone", "view", "view-alone"]),
        (
            ["kind~=^(active|view)$", "name==below"],
            ["active", "active-alone", "below", "view", "view-alone"],
        ),
        (["parent==above"], ["active", "view"]),
        (['parent==""'], ["active-alone", "below", "view-alone"]),
        (["labels.l"], ["active", "view"]),
        (["labels.l==1"], ["active"]),
        (['labels."l"!=1,kind==view'], ["view", "view-alone"]),
        (["kind==view,labels.l==2", "name==above"], ["above", "view"]),
        (["name~=/^act.*e$/"], ["active", "active-alone"]),
        (["labels.none==x"], []),
    ],
)
def test_lists_are_filtered_by_containerds_grammar(
    filters: list[str], found: list[str], states: Snapshots
) -> None:
    assert [info.name for info in states.list(*filters)] == found


@pytest.mark.parametrize("filter", ["kind=active", "name==", "labels.a.==x", "name==a name==b"])
def test_a_filter_that_cannot_be_read_is_refused(filter: str, client: Snapshots) -> None:
    assert code_of(client.list, filter) == "INVALID_ARGUMENT"


def test_keys_may_be_anything(client: Snapshots, work: Path) -> None:
    keys = ["/tmp/with/path", "a b,c:d", "ü" * 50, "../..", "x" * 4000, "new-1", "1", "'--"]
    for key in keys:
        with mounted(client.prepare(key), work / "m") as directory:
            (directory / "mine").write_text(key)
    for key in keys:
        with mounted(client.mounts(key), work / "m") as directory:
            assert (directory / "mine").read_text() == key
    assert {info.name for info in client.list()} == set(keys)


@pytest.mark.parametrize("call", ["prepare", "view", "commit", "remove"])
def test_of_sixteen_who_want_the_same_exactly_one_gets_it(
    call: str, address: Path, client: Snapshots, work: Path
) -> None:
    client.layer("base", "", work / "l")
    if call == "remove":
        client.prepare("wanted", "base")
    for number in range(CLIENTS if call == "commit" else 0):
        client.prepare(f"key-{number}", "base")
    start = threading.Barrier(CLIENTS)

    def want(number: int) -> str:
        with Snapshots(address) as other:
            start.wait(60)
            if call == "commit":
                return code_of(other.commit, "wanted", f"key-{number}")
            if call == "remove":
                return code_of(other.remove, "wanted")
            return code_of(getattr(other, call), "wanted", "base")

    with ThreadPoolExecutor(CLIENTS) as pool:
        codes = sorted(pool.map(want, range(CLIENTS)))
    refused = "NOT_FOUND" if call == "remove" else "ALREADY_EXISTS"
    assert codes == sorted(["OK", *[refused] * (CLIENTS - 1)])


def test_sixteen_at_once_who_build_and_remove_leave_what_they_kept(
    address: Path, daemon: Snapshotter, client: Snapshots, work: Path
) -> None:
    client.layer("base", "", work / "l")

    def life(number: int) -> None:
        with Snapshots(address) as other:
            parent = "base"
            for step in range(6):
                name = f"{number}-{step}"
                other.prepare(f"{name} key", parent)
                other.commit(name, f"{name} key", {"of": str(number)})
                other.view(f"{name} view", name)
                assert code_of(other.remove, parent) == "FAILED_PRECONDITION"
                assert len(other.list(f"labels.of=={number}")) == step + 1
                other.remove(f"{name} view")
                parent = name
            other.remove(parent)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(life, range(CLIENTS)))
    assert len(client.list("kind==committed")) == 1 + CLIENTS * 5
    assert len(client.list()) == 1 + CLIENTS * 5
    client.cleanup()
    assert len(list((daemon.places.root / "snapshots").iterdir())) == 1 + CLIENTS * 5
