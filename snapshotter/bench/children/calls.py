"""Some clients of containerd's Snapshots service at once, and how long each call took.

Arguments: the socket, and where it is containerd's own, the snapshotter's name and a lease.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from snapshotter.bench.children.talk import answer_all
from snapshotter.bench.errors import BenchError

NAMESPACE = "modelpack-bench"
_SECONDS = 60.0
_CHAIN = 10
"""Layers of an image."""


class Client:
    """The calls of a container's life, their durations in ``seconds`` by the call's name."""

    def __init__(self, address: str, snapshotter: str, lease: str) -> None:
        # One connection each, as of so many clients.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options=options)
        # containerd's connection is there long before it calls.
        grpc.channel_ready_future(self._channel).result(_SECONDS)
        self._stub = SnapshotsStub(self._channel)
        self._name = snapshotter
        self._metadata = [("containerd-namespace", NAMESPACE)]
        if lease:  # containerd collects what nobody refers to
            self._metadata.append(("containerd-lease", lease))
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
        self._timed("Prepare", self._stub.Prepare, request)

    def _view(self, key: str, parent: str) -> None:
        request = api.ViewSnapshotRequest(key=key, parent=parent, snapshotter=self._name)
        self._timed("View", self._stub.View, request)

    def _mounts(self, key: str) -> None:
        request = api.MountsRequest(key=key, snapshotter=self._name)
        self._timed("Mounts", self._stub.Mounts, request)

    def _commit(self, name: str, key: str) -> None:
        request = api.CommitSnapshotRequest(name=name, key=key, snapshotter=self._name)
        self._timed("Commit", self._stub.Commit, request)

    def _remove(self, key: str) -> None:
        request = api.RemoveSnapshotRequest(key=key, snapshotter=self._name)
        self._timed("Remove", self._stub.Remove, request)

    def _timed(self, name: str, call: Callable[..., object], request: Message) -> None:
        started = time.monotonic()
        try:
            call(request, metadata=self._metadata, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise BenchError(f"{name}: {cast(grpc.Call, error).details()}") from None
        self.seconds.setdefault(name, []).append(time.monotonic() - started)


def answer(told: dict[str, Any]) -> dict[str, Any]:
    """``do`` one method of every client at once; ``clients`` and ``prefix`` say which they are.

    ``count`` snapshots are filled in by all of them together.
    """
    clients = [Client(*sys.argv[1:]) for _ in range(told["clients"])]
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
