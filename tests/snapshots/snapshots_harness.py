"""A snapshotter behind its real socket, its answers mounted for real."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from proto.containerd.types.mount_pb2 import Mount
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.snapshots.service import serve

_FLAGS = {"ro": 1, "rw": 0, "nosuid": 2, "nodev": 4, "bind": 0x1000, "rbind": 0x5000}
_RDONLY, _REMOUNT, _BIND = 1, 0x20, 0x1000
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)

MODEL = ModelRef("registry.example.com", "models/tiny", digest_of(b"tiny"))


class PlainModels:
    """Models that are plain directories; the mounting of real ones is tested elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "tiny"
        self.directory.mkdir(parents=True)
        (self.directory / "config.json").write_text("{}")
        self.known: dict[str, ModelRef] = {}
        self.mounted: list[ModelRef] = []
        self.lowers: list[ModelRef] = []
        """Those of :attr:`mounted` that are to be the lower of an overlayfs."""
        self.released: list[ModelRef] = []
        self.error: ModelpackError | None = None
        self.idmap = True
        self.gate = threading.Event()
        self.gate.set()

    def may_be_meant(self, key: str) -> bool:
        return key in self.known

    def find(self, key: str, labels: Mapping[str, str]) -> ModelRef | None:
        return self.known.get(key)

    def is_looked_at(self, key: str) -> bool:
        return True

    def mount(self, ref: ModelRef, *, lower: bool = False) -> Path:
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.mounted.append(ref)
        if lower:
            self.lowers.append(ref)
        return self.directory

    def bears_idmap(self, directory: Path) -> bool:
        assert directory == self.directory
        return self.idmap

    def release(self, ref: ModelRef) -> None:
        self.released.append(ref)


class Client:
    """The calls of containerd's ``snapshots.Snapshotter``, over the socket."""

    def __init__(self, address: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{address}")
        self.stub = SnapshotsStub(self.channel)

    def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        request = api.PrepareSnapshotRequest(key=key, parent=parent, labels=labels)
        return self.stub.Prepare(request, timeout=60).mounts

    def view(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        request = api.ViewSnapshotRequest(key=key, parent=parent, labels=labels)
        return self.stub.View(request, timeout=60).mounts

    def mounts(self, key: str) -> Sequence[Mount]:
        return self.stub.Mounts(api.MountsRequest(key=key), timeout=60).mounts

    def commit(
        self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = ""
    ) -> None:
        self.stub.Commit(
            api.CommitSnapshotRequest(name=name, key=key, labels=labels, parent=parent), timeout=60
        )

    def remove(self, key: str) -> None:
        self.stub.Remove(api.RemoveSnapshotRequest(key=key), timeout=60)

    def stat(self, key: str) -> api.Info:
        return self.stub.Stat(api.StatSnapshotRequest(key=key), timeout=60).info

    def update(self, info: api.Info, *paths: str) -> api.Info:
        request = api.UpdateSnapshotRequest(info=info, update_mask=FieldMask(paths=paths))
        return self.stub.Update(request, timeout=60).info

    def usage(self, key: str) -> api.UsageResponse:
        return self.stub.Usage(api.UsageRequest(key=key), timeout=60)

    def chunks(self, *filters: str) -> list[list[str]]:
        answers = self.stub.List(api.ListSnapshotsRequest(filters=filters), timeout=60)
        return [[info.name for info in answer.info] for answer in answers]

    def walk(self, *filters: str) -> list[str]:
        return sorted(name for chunk in self.chunks(*filters) for name in chunk)

    def cleanup(self) -> None:
        self.stub.Cleanup(api.CleanupRequest(), timeout=60)


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[list[str]]:
    """The block must end in a gRPC error; its message is in the list afterwards."""
    message: list[str] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield message
    error = cast(grpc.Call, caught.value)
    assert error.code() is code, error.details()
    message.append(error.details() or "")
    assert "\n" not in message[0]


@contextmanager
def mounted(mounts: Iterable[Mount], target: Path) -> Iterator[Path]:
    """Mounts as containerd does (``core/mount``): lowers shortened, binds remounted read-only."""
    target.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for mount in mounts:
            flags, data = 0, []
            for option in mount.options:
                if option in _FLAGS:
                    flags |= _FLAGS[option]
                else:
                    data.append(option)
            _mount(mount.source, target, mount.type, flags, data)
            stack.callback(_umount, target)
            if flags & _BIND and flags & _RDONLY:
                _mount("", target, "", flags | _REMOUNT, [])
        yield target


def _mount(source: str, target: Path, kind: str, flags: int, data: list[str]) -> None:
    here = Path.cwd()
    if sum(map(len, data)) >= 4096 - 512:
        (lowerdir,) = (option for option in data if option.startswith("lowerdir="))
        lowers = lowerdir.removeprefix("lowerdir=").split(":")
        common = os.path.commonpath(lowers)
        assert common not in ("", "/"), "containerd could not shorten these"
        data = [option for option in data if option is not lowerdir]
        data.append("lowerdir=" + ":".join(lower[len(common) + 1 :] for lower in lowers))
        os.chdir(common)
    text = ",".join(data).encode()
    assert len(text) <= 4096
    try:
        failed = _libc.mount(
            source.encode(), os.fsencode(target), kind.encode(), flags, text or None
        )
    finally:
        os.chdir(here)
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def _umount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), _DETACH):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


class Place:
    """Where a snapshotter lives; :meth:`start` and leaving the block are its lives."""

    def __init__(self, root: Path) -> None:
        self.root = root / "root"
        self.address = root / "run" / "s.sock"
        self.models = PlainModels(root / "models")
        self.work = root / "work"
        self.work.mkdir()

    @contextmanager
    def start(self) -> Iterator[Client]:
        server = serve(self.address, self.root, self.models)
        try:
            client = Client(self.address)
            with client.channel:
                yield client
        finally:
            server.stop()

    def layers(self) -> list[str]:
        return sorted(path.name for path in (self.root / "snapshots").iterdir())
