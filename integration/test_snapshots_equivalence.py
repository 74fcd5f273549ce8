"""The same calls of containerd's own overlayfs snapshotter and of the daemon: the same answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, cast

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from integration.harness.containerd import Containerd, releases
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.snapshots import Snapshots
from integration.harness.snapshotter import Snapshotter
from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.types.mount_pb2 import Mount

_LAYER = re.compile(r"/[^:]*/snapshots/(\d+)/(fs|work)")
runs = count()


class Side:
    """One of the two: its client, and its directories by the order in which they were seen."""

    def __init__(self, client: Snapshots) -> None:
        self.client = client
        self._seen: dict[str, int] = {}

    def _layer(self, found: re.Match[str]) -> str:
        return f"<{self._seen.setdefault(found[1], len(self._seen))}/{found[2]}>"

    def shown(self, mounts: Sequence[Mount]) -> list[tuple[str, str, list[str]]]:
        """Mounts, without where the snapshotter keeps its directories, and without the one
        option that is ours: directories of lower layers can be renamed."""
        return [
            (
                mount.type,
                _LAYER.sub(self._layer, mount.source),
                [
                    _LAYER.sub(self._layer, option)
                    for option in sorted(mount.options)
                    if option != "redirect_dir=on"
                ],
            )
            for mount in mounts
        ]


def told(info: api.Info) -> tuple[object, ...]:
    changed = info.updated_at.ToNanoseconds() > info.created_at.ToNanoseconds()
    return info.name, info.parent, info.kind, dict(info.labels), changed


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module", params=["through containerd", "by its own socket"])
def pair(request: pytest.FixtureRequest, machine: Machine) -> Iterator[tuple[Snapshots, Snapshots]]:
    """containerd's snapshotter, and ours as containerd uses it or as it is."""
    places = Places.of(machine)
    with Snapshotter(machine, places) as daemon, Containerd(machine, releases()[0], places) as own:
        lease = own.ctr("leases", "create", namespace="conformance").strip()
        with Snapshots(own.address, snapshotter="overlayfs", lease=lease) as theirs:
            if request.param == "through containerd":
                ours = Snapshots(own.address, snapshotter="modelpack", lease=lease)
            else:
                ours = Snapshots(daemon.places.state / "snapshotter.sock")
            with ours:
                yield theirs, ours


names = st.sampled_from(["a", "b", "c", "/d e", "f"])
parents = st.sampled_from(["", "a", "b", "c", "/d e", "none"])
labels = st.dictionaries(
    st.sampled_from(["l", "containerd.io/snapshot/x", "containerd.io/gc.root"]),
    st.sampled_from(["", "1", "2"]),
    max_size=3,
)
paths = st.lists(
    st.sampled_from(["labels", "labels.l", "labels.containerd.io/snapshot/x", "labels.", "parent"]),
    max_size=2,
)
# None that cannot be read: containerd answers UNKNOWN there, where its contract has a code.
filters = st.lists(
    st.sampled_from(
        [
            "kind==active",
            "kind!=committed",
            "parent~=a$",
            "labels.l",
            "labels.l==1,kind==view",
            'labels."containerd.io/snapshot/x"!=2',
            "name~=|^[0-9]+ a|",
            "kind",
            "labels",
        ]
    ),
    max_size=2,
)


def machine_of(theirs: Snapshots, ours: Snapshots) -> type[RuleBasedStateMachine]:
    class Both(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.run = f"{next(runs)} "  # names of its own for each example
            self.sides = Side(theirs), Side(ours)

        def teardown(self) -> None:
            for side in self.sides:
                left = [info.name for info in side.client.list(f'name~="^{self.run}"')]
                while left:
                    left = [name for name in left if self._answer(side.client.remove, name)[0]]

        def name(self, name: str) -> str:
            return name and f"{self.run}{name}"

        def _answer(self, call: Callable[..., object], *arguments: object) -> tuple[str, object]:
            try:
                return "", call(*arguments)
            except grpc.RpcError as error:
                return cast(Any, error).code().name, None

        def same(self, call: Callable[[Side], object]) -> None:
            answers = [self._answer(call, side) for side in self.sides]
            assert answers[1] == answers[0], "ours, then containerd's"

        @rule(key=names, parent=parents, labels=labels)
        def prepare(self, key: str, parent: str, labels: dict[str, str]) -> None:
            key, parent = self.name(key), self.name(parent)
            self.same(lambda side: side.shown(side.client.prepare(key, parent, labels)))

        @rule(key=names, parent=parents, labels=labels)
        def view(self, key: str, parent: str, labels: dict[str, str]) -> None:
            key, parent = self.name(key), self.name(parent)
            self.same(lambda side: side.shown(side.client.view(key, parent, labels)))

        @rule(name=names, key=names, labels=labels)
        def commit(self, name: str, key: str, labels: dict[str, str]) -> None:
            self.same(lambda side: side.client.commit(self.name(name), self.name(key), labels))

        @rule(key=names)
        def remove(self, key: str) -> None:
            self.same(lambda side: side.client.remove(self.name(key)))

        @rule(key=names)
        def mounts(self, key: str) -> None:
            self.same(lambda side: side.shown(side.client.mounts(self.name(key))))

        @rule(key=names)
        def stat(self, key: str) -> None:
            self.same(lambda side: told(side.client.stat(self.name(key))))

        @rule(key=names)
        def usage(self, key: str) -> None:
            self.same(lambda side: side.client.usage(self.name(key)))

        @rule(key=names, labels=labels, paths=paths)
        def update(self, key: str, labels: dict[str, str], paths: list[str]) -> None:
            info = api.Info(name=self.name(key), parent="other", labels=labels)
            self.same(lambda side: told(side.client.update(info, *paths)))

        @rule(filters=filters)
        def list(self, filters: list[str]) -> None:
            self.same(
                lambda side: [
                    told(info)
                    for info in side.client.list(*filters)
                    if info.name.startswith(self.run)
                ]
            )

    return Both


def test_both_answer_every_sequence_of_calls_alike(pair: tuple[Snapshots, Snapshots]) -> None:
    run_state_machine_as_test(
        machine_of(*pair),
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
