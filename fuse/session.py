"""A mount being served: threads that read its descriptor and hand requests to operations.

A thread that reads never waits for anything but the kernel. It tries to read first and
polls only when nothing is there, so a busy mount costs one system call a request. Every
thread has an epoll set of its own with EPOLLEXCLUSIVE: a request wakes one of them, not
all. An event descriptor in each set is how :meth:`Session.stop` gets them out.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections.abc import Callable

from fuse.device import Device
from fuse.dispatch import Dispatcher
from fuse.interrupts import SWEEP_INTERVAL
from fuse.journal import Journal
from fuse.kernel import (
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    InitFlag,
    NotifyCode,
)
from fuse.negotiate import InitReply, SessionOptions
from fuse.operations import Operations

log = logging.getLogger(__name__)

_BUFFER = 128 << 10
"""Bytes for one request; the largest are SETXATTR with 64 KiB and whatever BATCH_FORGET
finds room for. The kernel itself refuses requests that do not fit."""


_PRESENT = 8 << 10
"""Bytes that requests which matter fit into."""


class Session:
    """Serves one descriptor of /dev/fuse until it is unmounted or :meth:`stop` is called.

    The descriptor stays its owner's, who closes it after :attr:`ended` is set or
    :meth:`stop` has returned. Closing the last duplicate aborts the mount. It is made
    non-blocking, which its duplicates share.

    A successor takes over a descriptor that another process served: it gives ``negotiated``
    where that one had agreed on something, and calls :meth:`resume` after :meth:`start`.
    For that the predecessor has ``agreeing`` called with what it is about to agree on, and a
    ``journal``, which is used where the kernel does not send requests again.
    """

    def __init__(
        self,
        fd: int,
        operations: Operations,
        options: SessionOptions | None = None,
        *,
        negotiated: InitReply | None = None,
        agreeing: Callable[[InitReply], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._fd = fd
        self._operations = operations
        self._options = options or SessionOptions()
        self._journal = journal
        self._agreeing = agreeing
        self._device = Device(fd, journal)
        self._dispatcher = Dispatcher(
            operations, self._device, self._options, negotiated, self._agreed
        )
        self._recorded = {} if journal is None else journal.unanswered()
        if journal is not None and negotiated is not None:
            self._without_journal(negotiated)
        self._stopping = False
        self._unmounted = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._serving = 0
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()
        """Unmounted, or the connection was aborted: nothing more comes. Not set by stop()."""

    # Life

    def start(self) -> None:
        """Start serving. Once only."""
        if self._threads or self._stopping:
            raise RuntimeError("a session is started once")
        os.set_blocking(self._fd, False)
        self._serving = self._options.threads
        self._threads = [
            threading.Thread(target=self._run, name=f"{self._options.name}-{n}", daemon=True)
            for n in range(self._options.threads)
        ]
        for thread in self._threads:
            thread.start()

    def wait_initialised(self, timeout: float | None = None) -> bool:
        """Wait until INIT is answered; False after ``timeout`` seconds. Calls on the mount
        wait for it by themselves."""
        return self._dispatcher.initialised.wait(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the session has ended; False after ``timeout`` seconds."""
        return self.ended.wait(timeout)

    def stop(self) -> None:
        """Stop serving, leave mount and descriptor as they are.

        Returns when no thread reads or writes the descriptor any more. Reads that are still
        unanswered stay so: later replies are dropped, a successor gets them resent. Calls on
        the mount wait for that successor. Must not be called from an operation.
        """
        self._stop_threads()
        for thread in self._threads:
            thread.join()
        self._device.detach()
        self._close_wake()

    # What was agreed

    @property
    def negotiated(self) -> InitReply | None:
        """The answer to INIT, for a successor. None before INIT."""
        return self._dispatcher.negotiated

    @property
    def passthrough(self) -> bool:
        """Whether files may be opened with a backing id."""
        return self.negotiated is not None and InitFlag.PASSTHROUGH in self.negotiated.flags

    @property
    def idmap(self) -> bool:
        """Whether the mount may be id-mapped."""
        return self.negotiated is not None and InitFlag.ALLOW_IDMAP in self.negotiated.flags

    @property
    def parked(self) -> int:
        """How many reads are unanswered."""
        return len(self._dispatcher.parked)

    # What we tell the kernel

    def notify_inval_entry(self, parent: int, name: bytes) -> bool:
        """Forget a name, or that there is none: the next use of it is looked up.

        False when the kernel knew nothing of it, or the mount has ended. Waits for lookups
        under way in that directory, so never call it from an operation.
        """
        head = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0)
        return self._notify(NotifyCode.INVAL_ENTRY, head, name + b"\0")

    def notify_inval_inode(self, nodeid: int, off: int = 0, length: int = 0) -> bool:
        """Drop a file's attributes and its pages from ``off`` on (``length`` 0: to the end;
        ``off`` negative: attributes only). False when the kernel has none, or the mount has
        ended.

        Waits for reads of those pages that are under way: never call it from an operation.
        """
        return self._notify(
            NotifyCode.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(nodeid, off, length)
        )

    def resume(self) -> None:
        """Have the requests that a predecessor left unanswered handled, after :meth:`start`.

        The kernel sends them again (Linux 6.9), else they are taken from the journal; without
        one, who waits for them waits until the mount is aborted.
        """
        recorded, self._recorded = self._recorded, {}
        if self.negotiated is None or InitFlag.HAS_RESEND in self.negotiated.flags:
            try:
                self.notify_resend()
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                for unique in recorded:
                    self._device.forget(unique)
                return
        for message in recorded.values():
            self._dispatcher.dispatch(memoryview(message))

    def notify_resend(self) -> None:
        """Ask for every request that was read and not answered (Linux 6.9).

        OSError (EINVAL) on a kernel that cannot, which INIT told by HAS_RESEND.
        """
        self._device.notify(NotifyCode.RESEND)

    def open_backing(self, fd: int) -> int:
        """Register an open file for passthrough; its id, to give with
        :class:`~fuse.operations.Opened`. ``fd`` may be closed afterwards.

        OSError: EPERM without CAP_SYS_ADMIN or passthrough, ELOOP for a file on overlayfs.
        """
        return self._device.open_backing(fd)

    def close_backing(self, backing_id: int) -> None:
        """Forget a backing id. Files that are open with it go on."""
        self._device.close_backing(backing_id)

    def _notify(self, code: NotifyCode, *buffers: bytes) -> bool:
        try:
            self._device.notify(code, *buffers)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                return False
            raise
        return True

    def _agreed(self, reply: InitReply) -> None:
        if self._agreeing is not None:
            self._agreeing(reply)
        self._without_journal(reply)

    def _without_journal(self, agreed: InitReply) -> None:
        """The kernel itself knows what is unanswered, and says so."""
        if self._journal is not None and InitFlag.HAS_RESEND in agreed.flags:
            self._journal = None

    # Threads

    def _run(self) -> None:
        try:
            with select.epoll() as waiting:
                waiting.register(self._wake, select.EPOLLIN)
                waiting.register(self._fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
                self._serve(waiting)
        except Exception:
            log.exception("session cannot read its device: unmount and mount again")
            self._unmounted = True
        finally:
            self._leave()

    def _serve(self, waiting: select.epoll) -> None:
        buffer = bytearray(_BUFFER)
        # Present in memory: the kernel fails a request that it cannot copy while we are killed.
        buffer[:_PRESENT] = bytes(_PRESENT)
        view = memoryview(buffer)
        interrupts = self._dispatcher.interrupts
        while not self._stopping:
            journal = self._journal
            try:
                if journal is None:
                    message = view[: os.readv(self._fd, (buffer,))]
                else:
                    message = journal.read(self._fd, view)
            except BlockingIOError:
                waiting.poll(SWEEP_INTERVAL if interrupts else None)
                if interrupts:
                    interrupts.sweep()
                continue
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue  # the request was taken back while we read it
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    message = view[:0]
                else:
                    raise
            if not message:
                self._unmounted = True
                return
            self._dispatcher.dispatch(message)

    def _leave(self) -> None:
        """The end of a thread. One that found the mount gone takes the others along; the
        last of them ends the session."""
        if self._unmounted:
            self._stop_threads()
        with self._lock:
            self._serving -= 1
            last = self._serving == 0
        if last and self._unmounted:
            self._device.detach()
            self._close_wake()
            try:
                self._operations.destroy()
            except Exception:
                log.exception("destroy failed")
            self.ended.set()

    def _stop_threads(self) -> None:
        with self._lock:
            self._stopping = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _close_wake(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
