"""One model mounted on one directory, and the FUSE server behind it."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from fuse.mount import MountError as FuseMountError
from fuse.mount import mount, set_readahead, unmount
from fuse.negotiate import InitReply, SessionOptions
from fuse.operations import Opened
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import File, Tree
from snapshotter.artifact.choice import write_choice
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher, ReadResult
from snapshotter.keeper.keeping import Keeping
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.files import Source, nodes_of
from snapshotter.mounts.inheritance import Inherited, encode_record, fingerprint, new_id
from snapshotter.mounts.ledger import Ledger
from snapshotter.mounts.loader import Model
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.passthrough import Passthrough
from snapshotter.mounts.prefetch import Prefetch
from snapshotter.throttle import Throttle

log = structlog.get_logger(__name__)

FILESYSTEM = "modelpack"
"""Shown by mount(8) as type ``fuse.modelpack``."""
_told = Throttle()
_LIFE_SHIFT = 40
"""File handles are a life's number and a count: none is used twice in a mount's life, for the
fetcher tells streams apart by them, and whose file it was that is closed must be known."""


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
        keeper: Keeping | None = None,
        inherited: Inherited | None = None,
    ) -> None:
        """Mount it; or with ``inherited`` go on where a predecessor was ended.

        ``keeper`` holds the mount for a successor. Raises :class:`MountError`, of what is
        inherited when it cannot be served as it was.
        """
        self.model = model
        self.directory = directory
        self.since = inherited.since if inherited is not None else time.time()
        self._fetcher = fetcher
        self._keeper = keeper
        passthrough = options.passthrough
        if inherited is not None:
            options = inherited.options(options)
        self._readahead = options.readahead
        self._cold_readahead = min(options.cold_readahead, options.readahead)
        nodes = nodes_of(model, options)
        self._paths = {
            path: node.content
            for path, node in nodes.items()
            if isinstance(node, File) and node.content is not None
        }
        self._tree: Tree[Source] = Tree(
            nodes,
            self._read,
            open=self._open,
            release=self._release,
            destroy=lambda: ended(self),
        )
        self._ledger: Ledger | None = None
        if inherited is not None:
            inherited.check(fingerprint(nodes))
            self.id = inherited.id
            self._ledger = Ledger(inherited.ledger_fd, len(self._tree))
        elif keeper is not None:
            self.id = new_id()
            self._ledger = Ledger.make(len(self._tree))
        self._passthrough = Passthrough(
            self._tree, self._paths, self._ledger, wanted=passthrough, model=str(model.ref)
        )
        negotiated: InitReply | None = None
        if inherited is not None:
            assert self._ledger is not None
            self._passthrough.inherit()
            negotiated = self._ledger.negotiated
        life = self._ledger.begin_life() if self._ledger is not None else 0
        self._handles = itertools.count((life << _LIFE_SHIFT) + 1)
        self._life = life

        def keep(fd: int) -> None:
            if keeper is not None and self._ledger is not None:
                record = encode_record(self, options, fingerprint(nodes))
                keeper.hold(self.id, record, [fd, self._ledger.fd])

        try:
            self._fd = (
                inherited.fd
                if inherited is not None
                else mount(
                    directory,
                    fsname=str(model.ref),
                    subtype=FILESYSTEM,
                    allow_other=allow_other,
                    max_read=options.max_read,
                    opened=keep,
                )
            )
        except BaseException as error:
            self._forget()
            if isinstance(error, FuseMountError):
                raise MountError(f"{model.ref}: {error}") from None
            raise
        try:
            self._session = Session(
                self._fd,
                self._tree,
                SessionOptions(
                    threads=options.threads,
                    name="modelpack-fuse",
                    max_read=options.max_read,
                    passthrough=options.passthrough,
                ),
                negotiated=negotiated,
                agreeing=None if self._ledger is None else self._ledger.agree,
                journal=None
                if self._ledger is None
                else self._ledger.journal(fresh=inherited is None),
            )
            self._passthrough.begin(self._session)
            self._session.start()
            if inherited is not None:
                self._device = inherited.device
                self._session.resume()
            else:
                self._device = directory.lstat().st_dev
            self._set_readahead()
            if self._ledger is not None:
                self._ledger.device = self._device
        except BaseException:
            if inherited is None:
                unmount(directory, lazy=True)
                self._forget()
                os.close(self._fd)
            raise
        self.prefetch = Prefetch(model, fetcher, options)
        self.prefetch.start()

    def _forget(self) -> None:
        """The mount has ended for good: a successor need not know of it."""
        if self._keeper is not None and self._ledger is not None:
            self._keeper.drop(self.id)
        if self._ledger is not None:
            self._ledger.close()

    @property
    def ended(self) -> threading.Event:
        return self._session.ended

    def shows(self) -> bool:
        """Whether the directory still shows the model: somebody else may have unmounted it."""
        try:
            return not self.ended.is_set() and self.directory.lstat().st_dev == self._device
        except OSError:
            return False  # ENOTCONN, of a mount whose connection was aborted

    @property
    def idmap(self) -> bool:
        """Whether the kernel lets the mount be id-mapped."""
        return self._session.idmap

    def keep_nodeids(self) -> None:
        """Give no file another nodeid from now on: the mount is to lie under an overlayfs.

        That keeps the lower file it once looked up, and answers ESTALE for ever when a name
        means another nodeid (ovl_revalidate_real in fs/overlayfs/super.c). The price: a file
        that is open when it becomes verified is read by the kernel itself only after all
        who have it open closed it.
        """
        self._passthrough.keep_nodeids()

    def detach(self, *, lazy: bool = True) -> None:
        """Take the mount out of the tree. Without ``lazy``: :class:`MountError` while in use."""
        try:
            unmount(self.directory, lazy=lazy)
        except FuseMountError as error:
            raise MountError(str(error)) from None

    def stop(self) -> None:
        """End the service for good; a mount that is left then answers ENOTCONN. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self.prefetch.stop()
        # Also when it has ended: its last thread may still be about to say so.
        self._session.stop()
        self._forget()
        self._let_go()
        os.close(fd)

    def _let_go(self) -> None:
        """Of the model's blobs, which may then be removed: at once, not when a collector of
        cycles comes by."""
        self._tree.clear()
        self._paths.clear()

    @property
    def kept(self) -> bool:
        """Whether a successor will find the mount, should this process end now."""
        return self._keeper is not None and self._ledger is not None and self._keeper.holding

    def leave(self) -> None:
        """Serve no more, and leave the mount to a successor. Its readers wait meanwhile."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if not self.ended.is_set():
            self._session.stop()
        if self._ledger is not None:
            self._ledger.close()
        os.close(fd)

    def describe(self) -> dict[str, Any]:
        """For `modelpack status`; sizes in bytes, each blob counted once."""
        unpacked = self.model.unpacked.values()
        blobs = [
            *(
                (blob, self.model.loaded.present_of(blob), blob.state)
                for blob in self.model.blobs.values()
            ),
            *(
                (one.blob, one.blob.size if one.done else one.blob.present_bytes, one.state)
                for one in unpacked
            ),
        ]
        return {
            "reference": str(self.model.ref),
            "digest": self.model.ref.digest,
            "directory": str(self.directory),
            "files": len(self.model.layout.files),
            "left_out": self.model.layout.left_out,
            "chosen": write_choice(self.model.chosen),
            "size_bytes": self.model.loaded.total_bytes + sum(one.blob.size for one in unpacked),
            "present_bytes": sum(present for _, present, _ in blobs),
            "unpacked_bytes": sum(one.passed for one in unpacked),
            "state": _state([state for _, _, state in blobs]),
            "blobs": [
                {
                    "digest": blob.digest,
                    "size_bytes": blob.size,
                    "present_bytes": present,
                    "state": state.value,
                }
                for blob, present, state in blobs
            ],
            "passthrough": self._passthrough.on,
            "mounted_since": self.since,
        }

    # What the fetcher tells; never from a thread that answers the kernel

    def verified(self, blob: Blob) -> None:
        """From now on the kernel may read ``blob`` itself: also files somebody holds open."""
        self._set_readahead()
        self._passthrough.verified(blob)

    def condemned(self, blob: Blob) -> None:
        """Bytes of ``blob`` were wrong: the kernel must not answer from pages it kept.

        Nor open it to read it by itself any more; who has it open so keeps what is on the
        disk, which nobody can take from them.
        """
        self._passthrough.condemned(blob)

    def reads_itself(self, blob: Blob) -> bool:
        """Whether somebody has a file open so that the kernel reads ``blob`` for it by itself."""
        return self._passthrough.reads_itself(blob)

    def withdraw(self, blob: Blob) -> bool:
        """Have the kernel let go of ``blob``, whose bytes are to go; False when it reads it.

        Of files that were open when an earlier life ended it is not known whether they were
        closed since: those count as open.
        """
        return self._passthrough.withdraw(blob)

    def _set_readahead(self) -> None:
        """For files opened from now on: the kernel looks at it in open(2)."""
        if not self.model.loaded.complete:
            set_readahead(self.directory, self._cold_readahead // 1024)
        elif self._cold_readahead != self._readahead:
            set_readahead(self.directory, self._readahead // 1024)

    # What the kernel asks

    def _open(self, nodeid: int, file: File[Source]) -> Opened:
        source = file.content
        assert source is not None
        backing = self._passthrough.open(nodeid, source)
        if backing is not None:
            source.blob.use()
            self._fetcher.use(self.model.loaded)
        return Opened(fh=next(self._handles), backing_id=backing or 0)

    def _release(self, nodeid: int, fh: int, file: File[Source]) -> None:
        if file.content is not None and self._passthrough.opened(nodeid):
            file.content.blob.use()
        if fh >> _LIFE_SHIFT == self._life:  # who opened what before is not known
            self._passthrough.release(nodeid)

    def _read(self, request: ReadRequest, file: File[Source]) -> None:
        source = file.content
        assert source is not None

        def deliver(result: ReadResult) -> None:
            if isinstance(result, FetchError):
                self._tell(source, request, result)
                request.fail(errno.EIO)
            else:
                request.reply(*result)

        if source.unpacked is not None:
            source.unpacked.read(source.offset + request.offset, request.size, deliver)
            return
        self._fetcher.read(
            self.model.loaded,
            source.blob,
            source.offset + request.offset,
            request.size,
            request.fh,
            deliver,
        )

    def _tell(self, source: Source, request: ReadRequest, error: FetchError) -> None:
        """One line for all reads that failed for one reason: a storm has thousands."""
        kept_back = _told.admit(error.kind)
        if kept_back is not None:
            log.warning(
                "read failed",
                model=str(self.model.ref),
                file=source.path,
                offset=request.offset,
                size=request.size,
                error=str(error),
                alike_not_logged=kept_back,
            )


def _state(states: Collection[BlobState]) -> str:
    """The least of what its blobs are, as `modelpack status` shows it."""
    least = (BlobState.BAD, BlobState.PARTIAL, BlobState.COMPLETE)
    return next((state for state in least if state in states), BlobState.VERIFIED).value
