"""A client of containerd's Snapshots service, and its answers mounted as containerd does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from proto.containerd.types.mount_pb2 import Mount

_T = TypeVar("_T")

_FLAGS = {"ro": 1, "rw": 0, "nosuid": 2, "nodev": 4, "bind": 0x1000, "rbind": 0x5000}
_RDONLY, _REMOUNT, _BIND = 1, 0x20, 0x1000
_DETACH = 2
_PAGE = 4096
_SECONDS = 60
_libc = ctypes.CDLL(None, use_errno=True)


class Snapshots:
    """The calls of containerd's ``snapshots.Snapshotter``, over a socket of its own."""

    def __init__(
        self,
        address: Path,
        *,
        snapshotter: str = "",
        lease: str = "",
        namespace: str = "conformance",
    ) -> None:
        """Of the daemon; of containerd, where ``snapshotter`` is the name of one of its own."""
        self._channel = grpc.insecure_channel(
            f"unix:{address}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stub = SnapshotsStub(self._channel)
        self._name = snapshotter
        self._metadata = [("containerd-namespace", namespace)] if snapshotter else []
        if lease:  # containerd collects what nobody refers to
            self._metadata.append(("containerd-lease", lease))

    def _call(self, call: Callable[..., _T], request: object) -> _T:
        return call(request, metadata=self._metadata, timeout=_SECONDS)

    def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        request = api.PrepareSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=labels
        )
        return self._call(self._stub.Prepare, request).mounts

    def view(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        request = api.ViewSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=labels
        )
        return self._call(self._stub.View, request).mounts

    def mounts(self, key: str) -> Sequence[Mount]:
        request = api.MountsRequest(snapshotter=self._name, key=key)
        return self._call(self._stub.Mounts, request).mounts

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        request = api.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels=labels
        )
        self._call(self._stub.Commit, request)

    def remove(self, key: str) -> None:
        self._call(self._stub.Remove, api.RemoveSnapshotRequest(snapshotter=self._name, key=key))

    def stat(self, key: str) -> api.Info:
        request = api.StatSnapshotRequest(snapshotter=self._name, key=key)
        return self._call(self._stub.Stat, request).info

    def update(self, info: api.Info, *paths: str) -> api.Info:
        request = api.UpdateSnapshotRequest(
            snapshotter=self._name, info=info, update_mask=FieldMask(paths=paths)
        )
        return self._call(self._stub.Update, request).info

    def list(self, *filters: str) -> list[api.Info]:
        request = api.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        answers = self._call(self._stub.List, request)
        return sorted((info for answer in answers for info in answer.info), key=lambda i: i.name)

    def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes."""
        usage = self._call(self._stub.Usage, api.UsageRequest(snapshotter=self._name, key=key))
        return usage.size, usage.inodes

    def cleanup(self) -> None:
        self._call(self._stub.Cleanup, api.CleanupRequest(snapshotter=self._name))

    def layer(
        self,
        name: str,
        parent: str,
        work: Path,
        change: Callable[[Path], object] = lambda _: None,
    ) -> str:
        """A committed snapshot that ``change(directory)`` made on top of ``parent``."""
        key = f"{name} being made"
        with mounted(self.prepare(key, parent), work) as directory:
            change(directory)
        self.commit(name, key)
        return name

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def code_of(call: Callable[..., object], *arguments: object) -> str:
    """``OK``, or the name of the code that ``call(*arguments)`` failed with."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return cast(Any, error).code().name  # type: ignore[no-any-return]
    return "OK"


@contextmanager
def mounted(mounts: Iterable[Mount], target: Path) -> Iterator[Path]:
    """Mounts as containerd does (``core/mount``): lowers shortened, binds remounted read-only."""
    target.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for mount in mounts:
            flags = 0
            data = []
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
    if sum(map(len, data)) >= _PAGE - 512:
        data, common = _shortened(data)
        os.chdir(common)
    text = ",".join(data).encode()
    assert len(text) <= _PAGE, "mount(2) takes one page of options"
    try:
        failed = _libc.mount(
            source.encode(), os.fsencode(target), kind.encode(), flags, text or None
        )
    finally:
        os.chdir(here)
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def _shortened(options: list[str]) -> tuple[list[str], str]:
    """``compactLowerdirOption`` of containerd: relative to what all lowers have in common."""
    (lowerdir,) = (option for option in options if option.startswith("lowerdir="))
    lowers = lowerdir.removeprefix("lowerdir=").split(":")
    common = os.path.commonpath(lowers)
    assert common not in ("", "/"), "containerd could not shorten these"
    short = ":".join(lower[len(common) + 1 :] for lower in lowers)
    return [*(option for option in options if option is not lowerdir), f"lowerdir={short}"], common


def _umount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), _DETACH):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))
