"""The Snapshots service on a unix socket: messages in, messages out, errors by their codes.

The thread that takes calls from all clients answers what is in memory, and changes what is
to be written; only for the disk to have it does another wait meanwhile. What may wait for
somebody, as for a model that is to be mounted, has a thread of its own.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.types.mount_pb2 import Mount as MountMessage
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.rpc.server import Call
from snapshotter.rpc.server import Server as RpcServer
from snapshotter.snapshots.errors import (
    AlreadyExists,
    Busy,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SnapshotError,
)
from snapshotter.snapshots.metadata import Write
from snapshotter.snapshots.models import Models
from snapshotter.snapshots.overlay import Mount
from snapshotter.snapshots.snapshot import Kind, Snapshot
from snapshotter.snapshots.snapshotter import MOUNTS_AT_ONCE, Snapshotter
from snapshotter.sockets import listen_unix, prepare_socket

log = structlog.get_logger(__name__)

_SERVICE = "/containerd.services.snapshots.v1.Snapshots"
_THREADS = MOUNTS_AT_ONCE + 32
"""A Prepare that waits for a registry keeps one, also when its caller has given up: whatever
else is asked must find one free."""
_LIST_CHUNK = 100
"""Snapshots in one message of a List, as containerd sends them."""
_CODES = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Busy: grpc.StatusCode.UNAVAILABLE,
    SnapshotError: grpc.StatusCode.INTERNAL,
}
_NOTHING = Empty()


class _Reply:
    """The answer to one call, whoever gives it."""

    __slots__ = ("_call", "_key", "_name")

    def __init__(self, call: Call, name: str, key: str) -> None:
        self._call = call
        self._name = name
        self._key = key

    def send(self, message: Message) -> None:
        self._call.answer(message.SerializeToString())

    def send_all(self, messages: Iterable[Message]) -> None:
        self._call.answer_all([message.SerializeToString() for message in messages])

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn errors into what containerd reads: a code it decides by, a line for people."""
        try:
            yield
        except Exception as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, ModelpackError):
            code, message = _code(error), str(error)
        elif isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INTERNAL
            message = f"{self._name} {self._key}: {error}"
        else:
            log.error("call failed", call=self._name, key=self._key, exc_info=error)
            code = grpc.StatusCode.INTERNAL
            message = f"{self._name} {self._key}: {error!r}"
        # containerd asks for what may not be there, and tries what may be done already.
        usual = code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
        level = logging.DEBUG if usual else logging.WARNING
        log.log(level, "refused", call=self._name, key=self._key, code=code.name, why=message)
        self._call.refuse(code.value[0], message)


_Work: TypeAlias = Callable[[Any, _Reply], None]
"""Takes a request; must not wait. Errors it raises are answered."""


class SnapshotsService:
    """containerd's ``Snapshots`` by its paths, for :class:`~snapshotter.rpc.server.Server`."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="modelpack-snapshots")
        calls: list[tuple[str, type[Message], _Work]] = [
            ("Prepare", api.PrepareSnapshotRequest, self._prepare),
            ("View", api.ViewSnapshotRequest, self._view),
            ("Mounts", api.MountsRequest, self._mounts),
            ("Commit", api.CommitSnapshotRequest, self._commit),
            ("Remove", api.RemoveSnapshotRequest, self._remove),
            ("Stat", api.StatSnapshotRequest, self._stat),
            ("Update", api.UpdateSnapshotRequest, self._update),
            ("List", api.ListSnapshotsRequest, self._list),
            ("Usage", api.UsageRequest, self._usage),
            ("Cleanup", api.CleanupRequest, self._cleanup),
        ]
        self.handlers: Mapping[str, Callable[[bytes, Call], None]] = {
            f"{_SERVICE}/{name}": partial(_take, name.lower(), request, work)
            for name, request, work in calls
        }

    def close(self) -> None:
        """What waits for somebody is left alone."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, request: api.PrepareSnapshotRequest, reply: _Reply) -> None:
        self._create(Kind.ACTIVE, request, reply, api.PrepareSnapshotResponse)

    def _view(self, request: api.ViewSnapshotRequest, reply: _Reply) -> None:
        self._create(Kind.VIEW, request, reply, api.ViewSnapshotResponse)

    def _create(
        self,
        kind: Kind,
        request: api.PrepareSnapshotRequest | api.ViewSnapshotRequest,
        reply: _Reply,
        response: Callable[..., Message],
    ) -> None:
        asked = (kind, request.key, request.parent, dict(request.labels))
        if self._snapshotter.may_take_long(*asked[:3]):
            self._later(reply, lambda: response(mounts=[_mount(self._snapshotter.create(*asked))]))
            return

        def created(write: Write[Snapshot]) -> None:
            with reply.refusing():
                snapshot = write.result()
                try:
                    mount = self._snapshotter.show_layers(snapshot)
                except (ModelpackError, OSError):
                    mount = None  # it is to be taken back, not here
                if mount is not None:
                    reply.send(response(mounts=[_mount(mount)]))
                    return
                self._later(
                    reply, lambda: response(mounts=[_mount(self._snapshotter.show(snapshot))])
                )

        self._snapshotter.create_soon(*asked, created)

    def _mounts(self, request: api.MountsRequest, reply: _Reply) -> None:
        key = request.key
        mount = self._snapshotter.show_layers(self._snapshotter.mountable(key))
        if mount is not None:
            reply.send(api.MountsResponse(mounts=[_mount(mount)]))
            return
        self._later(
            reply, lambda: api.MountsResponse(mounts=[_mount(self._snapshotter.mounts(key))])
        )

    def _commit(self, request: api.CommitSnapshotRequest, reply: _Reply) -> None:
        name = request.name

        def committed(write: Write[ModelRef | None]) -> None:
            with reply.refusing():
                model = write.result()
                reply.send(_NOTHING)
                if model is not None:
                    log.info("layer stands for a model", snapshot=name, model=str(model))

        labels = dict(request.labels)
        self._snapshotter.commit_soon(name, request.key, labels, request.parent, committed)

    def _remove(self, request: api.RemoveSnapshotRequest, reply: _Reply) -> None:
        def removed(write: Write[Snapshot]) -> None:
            with reply.refusing():
                snapshot = write.result()
                if snapshot.model is not None:
                    self._later(reply, lambda: self._snapshotter.removed(snapshot))
                    return
                self._snapshotter.removed(snapshot)
                reply.send(_NOTHING)

        self._snapshotter.remove_soon(request.key, removed)

    def _stat(self, request: api.StatSnapshotRequest, reply: _Reply) -> None:
        reply.send(api.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key))))

    def _update(self, request: api.UpdateSnapshotRequest, reply: _Reply) -> None:
        def updated(write: Write[Snapshot]) -> None:
            with reply.refusing():
                reply.send(api.UpdateSnapshotResponse(info=_info(write.result())))

        name, labels = request.info.name, dict(request.info.labels)
        self._snapshotter.update_soon(name, labels, list(request.update_mask.paths), updated)

    def _list(self, request: api.ListSnapshotsRequest, reply: _Reply) -> None:
        def chunks() -> Iterator[Message]:
            found = self._snapshotter.walk(list(request.filters))
            while chunk := list(itertools.islice(found, _LIST_CHUNK)):
                yield api.ListSnapshotsResponse(info=map(_info, chunk))

        def answer() -> None:
            with reply.refusing():
                reply.send_all(chunks())

        self._pool.submit(answer)

    def _usage(self, request: api.UsageRequest, reply: _Reply) -> None:
        def usage() -> Message:
            usage = self._snapshotter.usage(request.key)
            return api.UsageResponse(size=usage.size, inodes=usage.inodes)

        self._later(reply, usage)

    def _cleanup(self, request: api.CleanupRequest, reply: _Reply) -> None:
        del request  # the one snapshotter that is here
        self._later(reply, self._snapshotter.cleanup)

    def _later(self, reply: _Reply, work: Callable[[], Message | None]) -> None:
        """Answer what ``work`` returns; it may take as long as it likes."""

        def answer() -> None:
            with reply.refusing():
                reply.send(work() or _NOTHING)

        self._pool.submit(answer)


def _take(name: str, kind: type[Message], work: _Work, message: bytes, call: Call) -> None:
    try:
        request = kind.FromString(message)
    except DecodeError:
        call.refuse(grpc.StatusCode.INTERNAL.value[0], f"{name}: the request cannot be read")
        return
    reply = _Reply(call, name, _subject(request))
    with reply.refusing():
        work(request, reply)


def _subject(request: Message) -> str:
    """What a request is about, for errors."""
    match request:
        case api.UpdateSnapshotRequest():
            return request.info.name
        case api.ListSnapshotsRequest():
            return ", ".join(request.filters)
        case api.CleanupRequest():
            return request.snapshotter
    return str(getattr(request, "key", ""))


class Server:
    """The service, running."""

    def __init__(
        self, address: Path, server: RpcServer, service: SnapshotsService, snapshotter: Snapshotter
    ) -> None:
        self._address = address
        self._server = server
        self._service = service
        self._snapshotter = snapshotter

    def settle(self, mounted: Iterable[ModelRef]) -> None:
        """See :meth:`Snapshotter.settle`."""
        self._snapshotter.settle(mounted)

    def models(self) -> list[ModelRef]:
        """Those that snapshots stand for."""
        return self._snapshotter.models()

    def stop(self, grace: float = 5.0) -> None:
        """No new calls; those under way have ``grace`` seconds. The socket disappears."""
        self._address.unlink(missing_ok=True)
        self._server.stop(grace)
        self._service.close()
        self._snapshotter.close()


def serve(address: Path, root: Path, models: Models) -> Server:
    """Serve on the unix socket ``address`` (0600), snapshots below ``root``.

    Returns once it answers. Raises :class:`ModelpackError` when the socket or the root
    is another's or cannot be made.
    """
    prepare_socket(address)
    snapshotter = Snapshotter(root, models)
    try:
        listener = listen_unix(address)
    except ModelpackError:
        snapshotter.close()
        raise
    service = SnapshotsService(snapshotter)
    server = RpcServer(listener, service.handlers)
    snapshotter.work_in(server.soon)
    return Server(address, server, service, snapshotter)


def _code(error: ModelpackError) -> grpc.StatusCode:
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    # Of a model: worth another try, or not before somebody has mended something.
    temporary = getattr(error, "temporary", False)
    return grpc.StatusCode.UNAVAILABLE if temporary else grpc.StatusCode.FAILED_PRECONDITION


def _mount(mount: Mount) -> MountMessage:
    return MountMessage(type=mount.type, source=mount.source, options=mount.options)


def _info(snapshot: Snapshot) -> api.Info:
    return api.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=api.Kind.ValueType(snapshot.kind),
        created_at=_timestamp(snapshot.created),
        updated_at=_timestamp(snapshot.updated),
        labels=snapshot.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)
