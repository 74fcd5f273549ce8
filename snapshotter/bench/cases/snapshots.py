"""Calls that containerd makes of a snapshotter, while many others are made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.children.calls import NAMESPACE
from snapshotter.bench.containerd import ORDINARY, Ctr, find_containerd, visiting
from snapshotter.bench.contenders import OURS
from snapshotter.bench.errors import Unavailable
from snapshotter.bench.measures import LATENCIES, latencies_of
from snapshotter.bench.process import Child
from snapshotter.bench.stage import Stage

_CALLS = ("Prepare", "View", "Mounts", "Commit", "Remove")
_PRESENT = 1000
_PROCESSES, _THREADS = 4, 4
"""Of clients: all in one process would wait for its interpreter's lock."""
_ROUNDS = 50
_CLIENTS = _PROCESSES * _THREADS


class _Clients:
    """Those who call one Snapshots service, which they have filled."""

    def __init__(self, address: str, snapshotter: str, lease: str, stack: ExitStack) -> None:
        self._children = [
            stack.enter_context(Child("calls", address, snapshotter, lease))
            for _ in range(_PROCESSES)
        ]
        self._runs = 0
        answers = self._all("present", do="fill", count=_PRESENT // _PROCESSES)
        self._tops = [name for answer in answers for name in answer["names"]]

    def run(self) -> dict[str, list[float]]:
        """Seconds of every call, by its name."""
        self._runs += 1
        told = {"do": "live", "parents": self._tops, "rounds": _ROUNDS}
        seconds: dict[str, list[float]] = {}
        for answer in self._all(f"run-{self._runs}", **told):
            for call, found in answer["seconds"].items():
                seconds.setdefault(call, []).extend(found)
        return seconds

    def _all(self, prefix: str, **told: Any) -> list[dict[str, Any]]:
        for number, child in enumerate(self._children):
            child.tell({"prefix": f"{prefix}-{number}", "clients": _THREADS, **told})
        return [child.hear() for child in self._children]


class _Service:
    """One run of the clients measures every call; trials take from it what is theirs."""

    def __init__(self, stage: Stage, start: Callable[[], AbstractContextManager[_Clients]]) -> None:
        self._stage = stage
        self._start = start
        self._clients: _Clients | None = None
        self._runs: list[dict[str, list[float]]] = []
        self._taken = dict.fromkeys(_CALLS, 0)

    def sample(self, call: str) -> Sample:
        """Of the first run of which ``call`` was not taken yet."""
        turn = self._taken[call]
        if turn == len(self._runs):
            if self._clients is None:
                self._clients = self._stage.keep(self._start())
            self._runs.append(self._clients.run())
        self._taken[call] += 1
        seconds = self._runs[turn][call]
        return Sample(latencies_of(seconds) | {"calls": len(seconds)}, latencies=seconds)


def _plan(stage: Stage) -> Plan:
    if os.geteuid() != 0:
        raise Unavailable("the snapshotter's calls need root: it mounts and gives files away")
    notes: list[str] = []
    contenders = [_ours(stage)]
    try:
        ctr = find_containerd(stage.settings.containerd)
    except Unavailable as error:
        if stage.settings.containerd or stage.settings.against:
            raise
        notes.append(str(error))
    else:
        contenders += [
            _of_containerd(stage, ctr, name) for name in (ORDINARY, *stage.settings.against)
        ]
    return Plan(
        [
            Trial(
                call,
                "latency_p99",
                [
                    Contender(
                        name,
                        how,
                        partial(service.sample, call),
                        ours=ours,
                    )
                    for name, how, service, ours in contenders
                ],
                also=(*LATENCIES, "calls"),
                group="calls of the snapshotter",
            )
            for call in _CALLS
        ],
        notes=notes,
    )


_HOW = (
    f"{_CLIENTS} clients, each on a connection of its own and with the next call when the last "
    f"was answered, beside {_PRESENT:,} snapshots in chains of ten; one run measures all calls"
)


def _ours(stage: Stage) -> tuple[str, str, _Service, bool]:
    @contextmanager
    def start() -> Iterator[_Clients]:
        with ExitStack() as stack:
            directory = stack.enter_context(stage.scratch())
            config = stage.config_of(
                directory,
                {
                    "mirror": {"enabled": False},
                    "containerd": {"address": str(directory / "containerd.sock")},
                },
            )
            daemon = stack.enter_context(Child("snapshots", json.dumps(config)))
            yield _Clients(daemon.ask()["address"], "", "", stack)

    return OURS, f"the daemon's own socket; {_HOW}", _Service(stage, start), True


def _of_containerd(stage: Stage, ctr: Ctr, snapshotter: str) -> tuple[str, str, _Service, bool]:
    @contextmanager
    def start() -> Iterator[_Clients]:
        with ExitStack() as stack:
            stack.enter_context(visiting(ctr))
            yield _Clients(ctr.address, snapshotter, ctr.lease(), stack)

    how = f"containerd {ctr.version}'s socket, namespace {NAMESPACE}; {_HOW}"
    return f"containerd {snapshotter}", how, _Service(stage, start), False


SNAPSHOTS = Case(
    "snapshots",
    "Calls of the snapshotter",
    "Prepare, View, Mounts, Commit, Remove by 16 clients at once with 1,000 snapshots present",
    "containerd's overlayfs (and --against NAME), through containerd's socket",
    _plan,
)
