"""Some clients of containerd's Snapshots service at once, and how long each call took.

Arguments: the socket, and where it is containerd's own, the snapshotter's name and a lease.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from google.protobuf.message import Message

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from snapshotter.bench.children.talk import answer_all
from snapshotter.bench.errors import BenchError
from snapshotter.rpc.client import Caller
from snapshotter.rpc.errors import CallFailed, ConnectionFailed

NAMESPACE = "modelpack-bench"
_SERVICE = "/containerd.services.snapshots.v1.Snapshots/"
_CHAIN = 10
"""Layers of an image."""


class Client:
    """The calls of a container's life, their durations in ``seconds`` by the call's name."""

    def __init__(self, address: str, snapshotter: str, lease: str) -> None:
        metadata = [("containerd-namespace", NAMESPACE)]
        if lease:  # containerd collects what nobody refers to
            metadata.append(("containerd-lease", lease))
        self._caller = Caller(address, metadata)
        self._name = snapshotter
        self.seconds: dict[str, list[float]] = {}

    def fill(self, prefix: str, count: int) -> list[str]:
        """``count`` committed snapshots in chains of up to ten; the last of each chain."""
        tops = []
        parent = ""
        for number in range(count):
            parent = "" if number % _CHAIN == 0 else parent
            name = f"{prefix}-{number}"
            self._prepare(f"{name}-active", parent)
            self._commit(name, f"{name}-active")
            parent = name
            if number % _CHAIN == _CHAIN - 1 or number == count - 1:
                tops.append(name)
        return tops

    def live(self, prefix: str, parents: list[str], rounds: int) -> None:
        """A layer unpacked and looked at, and both taken away again."""
        for number in range(rounds):
            name = f"{prefix}-{number}"
            self._prepare(f"{name}-active", parents[number % len(parents)])
            self._mounts(f"{name}-active")
            self._commit(name, f"{name}-active")
            self._view(f"{name}-view", name)
            self._remove(f"{name}-view")
            self._remove(name)

    def _prepare(self, key: str, parent: str) -> None:
        request = api.PrepareSnapshotRequest(key=key, parent=parent, snapshotter=self._name)
        self._timed("Prepare", request)

    def _view(self, key: str, parent: str) -> None:
        request = api.ViewSnapshotRequest(key=key, parent=parent, snapshotter=self._name)
        self._timed("View", request)

    def _mounts(self, key: str) -> None:
        request = api.MountsRequest(key=key, snapshotter=self._name)
        self._timed("Mounts", request)

    def _commit(self, name: str, key: str) -> None:
        request = api.CommitSnapshotRequest(name=name, key=key, snapshotter=self._name)
        self._timed("Commit", request)

    def _remove(self, key: str) -> None:
        request = api.RemoveSnapshotRequest(key=key, snapshotter=self._name)
        self._timed("Remove", request)

    def _timed(self, name: str, request: Message) -> None:
        message = request.SerializeToString()
        started = time.monotonic()
        try:
            self._caller.call(_SERVICE + name, message)
        except (CallFailed, ConnectionFailed, OSError) as error:
            raise BenchError(f"{name}: {error}") from None
        self.seconds.setdefault(name, []).append(time.monotonic() - started)


_clients: list[Client] = []
"""They stay: containerd has its connection when it is asked for something."""


def answer(told: dict[str, Any]) -> dict[str, Any]:
    """``do`` one method of every client at once; ``clients`` and ``prefix`` say which they are.

    ``count`` snapshots are filled in by all of them together.
    """
    clients = _clients[: told["clients"]]
    clients += [Client(*sys.argv[1:]) for _ in range(told["clients"] - len(clients))]
    _clients[: len(clients)] = clients
    for client in clients:
        client.seconds = {}
    answers: list[list[str]] = [[] for _ in clients]
    errors: list[str] = []
    ready = threading.Barrier(len(clients))

    def run(number: int) -> None:
        client, prefix = clients[number], f"{told['prefix']}-{number}"
        ready.wait()
        try:
            if told["do"] == "fill":
                mine = told["count"] * (number + 1) // len(clients)
                mine -= told["count"] * number // len(clients)
                answers[number] = client.fill(prefix, mine)
            else:
                client.live(prefix, told["parents"], told["rounds"])
        except BenchError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        return {"error": errors[0]}
    seconds: dict[str, list[float]] = {}
    for client in clients:
        for call, found in client.seconds.items():
            seconds.setdefault(call, []).extend(found)
    return {"names": [name for names in answers for name in names], "seconds": seconds}


if __name__ == "__main__":
    answer_all(answer)
