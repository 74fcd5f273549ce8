"""Writing to /dev/fuse: answers, notifications, ioctls. Reading is the session's.

The descriptor belongs to whoever mounted. After :meth:`Device.detach` nothing here touches
it any more, so its owner may close it while late answers are still being made: without
that, an answer could go into a file that happened to get the same number.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from fuse.journal import Journal
from fuse.kernel import (
    BACKING_ID,
    BACKING_MAP,
    FUSE_DEV_IOC_BACKING_CLOSE,
    FUSE_DEV_IOC_BACKING_OPEN,
    OUT_HEADER,
    NotifyCode,
)
from fuse.reading import Buffer

log = logging.getLogger(__name__)

_IOV_MAX = 1024
_T = TypeVar("_T")

_NOBODY_WAITS = (
    errno.ENOENT,  # aborted, interrupted, or answered by another process
    errno.ENODEV,  # unmounted
    errno.EPERM,  # not mounted yet
    errno.ECONNABORTED,
)


class Device:
    """The writing side of one mount's descriptor. Thread-safe; writes do not wait for each
    other."""

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        """``journal``: where requests are crossed off once the kernel has the answer."""
        self._fd = fd
        self._journal = journal
        self._lock = threading.Condition(threading.Lock())
        self._writing = 0
        self._detached = False

    def send(self, unique: int, error: int, buffers: Sequence[Buffer] = ()) -> None:
        """Answer a request with bytes, or with a positive errno. Never raises.

        Exactly one writev: the kernel wants a message whole, and takes the pages straight
        from the buffers. After :meth:`detach` answers are dropped.
        """
        try:
            self._using(lambda fd: _write(fd, -error, unique, buffers))
        except OSError as refused:
            if refused.errno in _NOBODY_WAITS:
                if refused.errno == errno.ENOENT:
                    self.forget(unique)
                return
            # The kernel did not take the message, so somebody still waits.
            log.error("answer to request %#x refused, failed with EIO: %s", unique, refused)
            if not error:
                self.send(unique, errno.EIO)
        else:
            self.forget(unique)

    def forget(self, unique: int) -> None:
        """Cross a request off the journal: nobody is to answer it any more."""
        if self._journal is not None:
            self._journal.answered(unique)

    def notify(self, code: NotifyCode, *buffers: Buffer) -> None:
        """Tell the kernel something unasked; OSError as the kernel answers it."""
        self._using(lambda fd: _write(fd, code, 0, buffers))

    def open_backing(self, fd: int) -> int:
        """FUSE_DEV_IOC_BACKING_OPEN: the positive backing id of an open file.

        EPERM without CAP_SYS_ADMIN or passthrough, ELOOP when the file's own file system is
        stacked too high (overlayfs), EOPNOTSUPP when it cannot be read that way.
        """
        # A mutable buffer makes fcntl.ioctl return the call's result, which is the id.
        wanted = bytearray(BACKING_MAP.pack(fd, 0, 0))
        return self._using(
            lambda device: int(fcntl.ioctl(device, FUSE_DEV_IOC_BACKING_OPEN, wanted))
        )

    def close_backing(self, backing_id: int) -> None:
        """FUSE_DEV_IOC_BACKING_CLOSE. Files already open with it go on."""
        wanted = bytearray(BACKING_ID.pack(backing_id))
        self._using(lambda device: fcntl.ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, wanted))

    def detach(self) -> None:
        """Touch the descriptor no more; returns when no write is under way."""
        with self._lock:
            self._detached = True
            self._lock.wait_for(lambda: self._writing == 0)

    def _using(self, call: Callable[[int], _T]) -> _T:
        self._enter()
        try:
            return call(self._fd)
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._detached:
                raise OSError(errno.ENODEV, "the session has ended")
            self._writing += 1

    def _leave(self) -> None:
        with self._lock:
            self._writing -= 1
            if self._detached:
                self._lock.notify_all()


def _write(fd: int, error: int, unique: int, buffers: Sequence[Buffer]) -> None:
    if len(buffers) >= _IOV_MAX:
        buffers = (b"".join(buffers),)
    length = OUT_HEADER.size + sum(memoryview(buffer).nbytes for buffer in buffers)
    os.writev(fd, [OUT_HEADER.pack(length, error, unique), *buffers])
