"""The Snapshots service on a unix socket: messages in, messages out, errors by their codes."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc as grpc_api
from proto.containerd.types.mount_pb2 import Mount as MountMessage
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.snapshots.errors import (
    AlreadyExists,
    Busy,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SnapshotError,
)
from snapshotter.snapshots.models import Models
from snapshotter.snapshots.overlay import Mount
from snapshotter.snapshots.snapshot import Snapshot
from snapshotter.snapshots.snapshotter import MOUNTS_AT_ONCE, Snapshotter
from snapshotter.sockets import prepare_socket

log = structlog.get_logger(__name__)

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


class SnapshotsServicer(grpc_api.SnapshotsServicer):
    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def Prepare(
        self, request: api.PrepareSnapshotRequest, context: grpc.ServicerContext
    ) -> api.PrepareSnapshotResponse:
        with _answering(context, "prepare", request.key):
            mount = self._snapshotter.prepare(request.key, request.parent, dict(request.labels))
            return api.PrepareSnapshotResponse(mounts=[_mount(mount)])

    def View(
        self, request: api.ViewSnapshotRequest, context: grpc.ServicerContext
    ) -> api.ViewSnapshotResponse:
        with _answering(context, "view", request.key):
            mount = self._snapshotter.view(request.key, request.parent, dict(request.labels))
            return api.ViewSnapshotResponse(mounts=[_mount(mount)])

    def Mounts(
        self, request: api.MountsRequest, context: grpc.ServicerContext
    ) -> api.MountsResponse:
        with _answering(context, "mounts", request.key):
            return api.MountsResponse(mounts=[_mount(self._snapshotter.mounts(request.key))])

    def Commit(self, request: api.CommitSnapshotRequest, context: grpc.ServicerContext) -> Empty:
        with _answering(context, "commit", request.key):
            self._snapshotter.commit(
                request.name, request.key, dict(request.labels), request.parent
            )
            return Empty()

    def Remove(self, request: api.RemoveSnapshotRequest, context: grpc.ServicerContext) -> Empty:
        with _answering(context, "remove", request.key):
            self._snapshotter.remove(request.key)
            return Empty()

    def Stat(
        self, request: api.StatSnapshotRequest, context: grpc.ServicerContext
    ) -> api.StatSnapshotResponse:
        with _answering(context, "stat", request.key):
            return api.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    def Update(
        self, request: api.UpdateSnapshotRequest, context: grpc.ServicerContext
    ) -> api.UpdateSnapshotResponse:
        with _answering(context, "update", request.info.name):
            updated = self._snapshotter.update(
                request.info.name, dict(request.info.labels), request.update_mask.paths
            )
            return api.UpdateSnapshotResponse(info=_info(updated))

    def List(
        self, request: api.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> Iterator[api.ListSnapshotsResponse]:
        with _answering(context, "list", ", ".join(request.filters)):
            found = self._snapshotter.walk(request.filters)
            while chunk := list(itertools.islice(found, _LIST_CHUNK)):
                yield api.ListSnapshotsResponse(info=map(_info, chunk))

    def Usage(self, request: api.UsageRequest, context: grpc.ServicerContext) -> api.UsageResponse:
        with _answering(context, "usage", request.key):
            usage = self._snapshotter.usage(request.key)
            return api.UsageResponse(size=usage.size, inodes=usage.inodes)

    def Cleanup(self, request: api.CleanupRequest, context: grpc.ServicerContext) -> Empty:
        with _answering(context, "cleanup", request.snapshotter):
            self._snapshotter.cleanup()
            return Empty()


class Server:
    """The service, running."""

    def __init__(self, server: grpc.Server, snapshotter: Snapshotter) -> None:
        self._server = server
        self._snapshotter = snapshotter

    def settle(self, mounted: Iterable[ModelRef]) -> None:
        """See :meth:`Snapshotter.settle`."""
        self._snapshotter.settle(mounted)

    def models(self) -> list[ModelRef]:
        """Those that snapshots stand for."""
        return self._snapshotter.models()

    def stop(self, grace: float = 5.0) -> None:
        """No new calls; those under way have ``grace`` seconds. The socket disappears."""
        self._server.stop(grace).wait()
        self._snapshotter.close()


def serve(address: Path, root: Path, models: Models) -> Server:
    """Serve on the unix socket ``address`` (0600), snapshots below ``root``.

    Returns once it answers. Raises :class:`ModelpackError` when the socket or the root
    is another's or cannot be made.
    """
    prepare_socket(address)
    snapshotter = Snapshotter(root, models)
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="modelpack-snapshots"),
        options=[("grpc.so_reuseport", 0)],
    )
    grpc_api.add_SnapshotsServicer_to_server(SnapshotsServicer(snapshotter), server)
    try:
        server.add_insecure_port(f"unix:{address}")
        address.chmod(0o600)
    except (RuntimeError, OSError) as error:
        snapshotter.close()
        raise SnapshotError(f"cannot listen on {address}: {error}") from None
    server.start()
    return Server(server, snapshotter)


@contextmanager
def _answering(context: grpc.ServicerContext, call: str, key: str) -> Iterator[None]:
    """Turn errors into what containerd reads: a code it decides by, a line for people."""
    try:
        yield
    except ModelpackError as error:
        code, message = _code(error), str(error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INTERNAL
        message = f"{call} {key}: {error}"
    except Exception as error:
        log.exception("call failed", call=call, key=key)
        code, message = grpc.StatusCode.INTERNAL, f"{call} {key}: {error!r}"
    else:
        return
    # containerd asks for what may not be there, and tries what may be done already.
    usual = code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
    level = logging.DEBUG if usual else logging.WARNING
    log.log(level, "refused", call=call, key=key, code=code.name, why=message)
    context.abort(code, message)


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
