"""One model mounted on one directory, and the FUSE server behind it."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from fuse.mount import MountError as FuseMountError
from fuse.mount import mount, set_readahead, unmount
from fuse.negotiate import SessionOptions
from fuse.operations import Opened
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import Directory, File, Tree
from snapshotter.artifact.layout import File as ModelFile
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher, ReadResult
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.loader import Model
from snapshotter.mounts.options import MountOptions

log = structlog.get_logger(__name__)

FILESYSTEM = "modelpack"
"""Shown by mount(8) as type ``fuse.modelpack``."""
_handles = itertools.count(1)
"""File handles, never used twice: the fetcher tells streams apart by them."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the bytes of a file are."""

    path: str
    blob: Blob
    offset: int


class Serving:
    """A model that shows at ``directory`` until :attr:`ended` is set.

    That is when the kernel says that nobody holds the file system any more: after
    :meth:`detach` this may take as long as containers run. ``ended`` is then called once,
    by a thread that must not call :meth:`stop`.
    """

    def __init__(
        self,
        model: Model,
        directory: Path,
        fetcher: Fetcher,
        options: MountOptions,
        *,
        allow_other: bool = True,
        ended: Callable[[Serving], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.directory = directory
        self.since = time.time()
        self._fetcher = fetcher
        tree = Tree(_nodes(model, options), self._read, open=_open, destroy=lambda: ended(self))
        try:
            self._fd = mount(
                directory,
                fsname=str(model.ref),
                subtype=FILESYSTEM,
                allow_other=allow_other,
                max_read=options.max_read,
            )
        except FuseMountError as error:
            raise MountError(f"{model.ref}: {error}") from None
        self._session = Session(
            self._fd,
            tree,
            SessionOptions(
                threads=options.threads, name="modelpack-fuse", max_read=options.max_read
            ),
        )
        self._session.start()
        set_readahead(directory, options.readahead // 1024)

    @property
    def ended(self) -> threading.Event:
        return self._session.ended

    def detach(self, *, lazy: bool = True) -> None:
        """Take the mount out of the tree. Without ``lazy``: :class:`MountError` while in use."""
        try:
            unmount(self.directory, lazy=lazy)
        except FuseMountError as error:
            raise MountError(str(error)) from None

    def stop(self) -> None:
        """End the service for good; a mount that is left then answers ENOTCONN."""
        if not self.ended.is_set():
            self._session.stop()
        os.close(self._fd)

    def describe(self) -> dict[str, Any]:
        """For `modelpack status`; sizes in bytes, each blob counted once."""
        blobs = self.model.blobs.values()
        return {
            "reference": str(self.model.ref),
            "digest": self.model.ref.digest,
            "directory": str(self.directory),
            "files": len(self.model.layout.files),
            "size_bytes": self.model.loaded.total_bytes,
            "present_bytes": sum(blob.present_bytes for blob in blobs),
            "state": _state(blobs),
            "mounted_since": self.since,
        }

    def _read(self, request: ReadRequest, file: File[_Source]) -> None:
        source = file.content
        assert source is not None

        def deliver(result: ReadResult) -> None:
            if isinstance(result, FetchError):
                log.warning(
                    "read failed",
                    model=str(self.model.ref),
                    file=source.path,
                    offset=request.offset,
                    size=request.size,
                    error=str(result),
                )
                request.fail(errno.EIO)
            else:
                request.reply(*result)

        self._fetcher.read(
            self.model.loaded,
            source.blob,
            source.offset + request.offset,
            request.size,
            stream=request.fh,
            deliver=deliver,
        )


def _nodes(model: Model, options: MountOptions) -> dict[bytes, File[_Source] | Directory]:
    owner = {"uid": options.uid, "gid": options.gid}
    nodes: dict[bytes, File[_Source] | Directory] = {b"": Directory(**owner)}
    for path in model.layout.directories:
        nodes[os.fsencode(path)] = Directory(**owner)
    for file in model.layout.files:
        nodes[os.fsencode(file.path)] = _node(file, model.blobs[file.digest], owner)
    return nodes


def _node(file: ModelFile, blob: Blob, owner: dict[str, int]) -> File[_Source]:
    return File(
        size=file.size,
        content=_Source(file.path, blob, file.offset),
        mode=stat.S_IMODE(file.mode),
        mtime_ns=file.mtime_ns,
        **owner,
    )


def _open(_nodeid: int, _file: File[_Source]) -> Opened:
    return Opened(fh=next(_handles))


def _state(blobs: Iterable[Blob]) -> str:
    """The least of what its blobs are, as `modelpack status` shows it."""
    states = {blob.state for blob in blobs}
    least = (BlobState.BAD, BlobState.PARTIAL, BlobState.COMPLETE)
    return next((state for state in least if state in states), BlobState.VERIFIED).value
