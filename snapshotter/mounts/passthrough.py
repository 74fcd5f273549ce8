"""Which files of a mount the kernel reads by itself, and how it is told when that changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping

import structlog

from fuse.session import Session
from fuse.tree import RENEWED, Tree
from snapshotter.artifact.digest import Digest
from snapshotter.cache.blob import Blob
from snapshotter.mounts.files import Source
from snapshotter.mounts.iomode import IoModes
from snapshotter.mounts.ledger import GIVEN, UNUSED, Ledger, backing_of

log = structlog.get_logger(__name__)


class Passthrough:
    """Files whose blob is verified, and is the file: the kernel has a handle on those blobs.

    A file that is open when its blob becomes verified gets a second nodeid for those who open
    it next (see iomode.py). Thread-safe; `begin` comes before the kernel is answered.
    """

    def __init__(
        self,
        tree: Tree[Source],
        paths: Mapping[bytes, Source],
        ledger: Ledger | None,
        *,
        wanted: bool,
        model: str,
    ) -> None:
        """``model`` is for messages. Of no file where it is not ``wanted``."""
        self._tree = tree
        self._paths = paths
        self._ledger = ledger
        self._wanted = wanted
        self._model = model
        self._modes = IoModes(ledger)
        self._backing: dict[Digest, int] = {}
        self._lock = threading.Lock()
        """Together with opening, or a file could be withdrawn from who is just opening it."""
        self._renewing = threading.Lock()
        self._nodeids_stay = False
        self._session: Session

    def begin(self, session: Session) -> None:
        self._session = session

    def inherit(self) -> None:
        """Bring the tree and the I/O modes to where a predecessor left them, by the ledger."""
        ledger = self._ledger
        assert ledger is not None
        self._nodeids_stay = ledger.nodeids_stay
        for path, source in self._paths.items():
            base = self._tree.nodeid(path)
            if ledger[base | RENEWED] != UNUSED:
                self._tree.renew(base)
            for nodeid in (base, base | RENEWED):
                recorded = ledger[nodeid]
                self._modes.inherit(nodeid, recorded)
                if backing := backing_of(recorded):
                    self._backing[source.blob.digest] = backing

    @property
    def on(self) -> bool:
        return self._wanted and self._session.passthrough

    def keep_nodeids(self) -> None:
        """Give no file another nodeid from now on: see :meth:`Serving.keep_nodeids`."""
        with self._renewing:
            self._nodeids_stay = True
            if self._ledger is not None:
                self._ledger.keep_nodeids()

    # What the kernel asks

    def open(self, nodeid: int, source: Source) -> int | None:
        """With which backing the kernel reads the file that is being opened; None: through us.

        0 where wrong bytes were found since others opened it: the kernel refuses that open.
        """
        with self._lock:
            ready = self._backing_id(source) if source.whole else 0
            if not self._modes.open(nodeid, ready=ready):
                return None
            return self._backing.get(source.blob.digest, 0)

    def opened(self, nodeid: int) -> bool:
        """Whether the kernel reads by itself what is open as ``nodeid``."""
        return self._modes.passthrough(nodeid)

    def release(self, nodeid: int) -> None:
        self._modes.release(nodeid)

    # What becomes of blobs; never from a thread that answers the kernel

    def verified(self, blob: Blob) -> None:
        """From now on the kernel may read ``blob`` itself: also files somebody holds open."""
        if not self.on:
            return
        for path, source in self._of(blob):
            nodeid = self._tree.nodeid(path)
            if source.whole and self._modes.cached(nodeid):
                self._renew(nodeid)

    def condemned(self, blob: Blob) -> None:
        """As :meth:`Serving.condemned`."""
        with self._lock:
            backing = self._backing.pop(blob.digest, 0)
        for path, source in self._of(blob):
            nodeid = self._tree.nodeid(path)
            self._session.notify_inval_inode(nodeid)
            if backing and source.whole:
                if self._ledger is not None:
                    self._ledger.forget_backing(nodeid)
                self._renew(nodeid)
        if backing:
            self._session.close_backing(backing)

    def reads_itself(self, blob: Blob) -> bool:
        """Whether somebody has a file open so that the kernel reads ``blob`` for it by itself."""
        return any(
            source.whole and self._modes.passthrough(nodeid)
            for path, source in self._of(blob)
            for nodeid in _nodeids(self._tree.nodeid(path))
        )

    def withdraw(self, blob: Blob) -> bool:
        """As :meth:`Serving.withdraw`."""
        with self._lock:
            if self.reads_itself(blob):
                return False
            backing = self._backing.pop(blob.digest, 0)
            if backing and self._ledger is not None:
                for path, source in self._of(blob):
                    if source.whole:
                        self._ledger.forget_backing(self._tree.nodeid(path))
        if backing:
            self._session.close_backing(backing)
        return True

    def _renew(self, nodeid: int) -> None:
        """Have the next open of a file come with another nodeid, unless it must keep the one."""
        with self._renewing:
            if self._nodeids_stay:
                return
            if self._ledger is not None and self._ledger[nodeid | RENEWED] == UNUSED:
                self._ledger[nodeid | RENEWED] = GIVEN
            parent, name = self._tree.renew(nodeid)
            self._session.notify_inval_entry(parent, name)

    def _of(self, blob: Blob) -> Iterator[tuple[bytes, Source]]:
        return ((path, source) for path, source in self._paths.items() if source.blob is blob)

    def _backing_id(self, source: Source) -> int:
        """With the lock held: the kernel's handle on the blob's file; 0 when it is not to read
        it itself."""
        blob = source.blob
        if not self.on or blob.size == 0:
            return 0
        known = self._backing.get(blob.digest, 0)
        lent = None if known else blob.lend()
        if lent is None:
            return known
        try:
            self._backing[blob.digest] = self._session.open_backing(lent)
        except OSError as error:
            # A cache on overlayfs (ELOOP), for instance; every file would fail alike.
            self._wanted = False
            log.warning(
                "no passthrough: reads go through the daemon",
                model=self._model,
                error=error.strerror,
            )
            return 0
        finally:
            os.close(lent)
        return self._backing[blob.digest]


def _nodeids(nodeid: int) -> tuple[int, int]:
    """Both that a file may have: see :meth:`fuse.tree.Tree.renew`."""
    return nodeid & ~RENEWED, nodeid | RENEWED
