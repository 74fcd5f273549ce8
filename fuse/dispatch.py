"""One message of the kernel in, one answer out.

Knows the protocol and an :class:`~fuse.operations.Operations`, not where messages come
from: tests feed it arbitrary bytes. Whatever comes, and whatever an operation raises,
:meth:`Dispatcher.dispatch` returns; one bad request must not end a mount.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuse.encode import (
    NO_ENTRY,
    encode_attr_out,
    encode_directory,
    encode_entry,
    encode_statfs,
)
from fuse.interrupts import Interrupts
from fuse.kernel import (
    BATCH_FORGET_IN,
    FOPEN_CACHE_DIR,
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_PASSTHROUGH,
    FOPEN_PASSTHROUGH_MASK,
    FORGET_IN,
    FORGET_ONE,
    FUSE_KERNEL_VERSION,
    GETXATTR_IN,
    GETXATTR_OUT,
    IN_HEADER,
    INTERRUPT_IN,
    NEVER_ANSWERED,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    InitFlag,
    Opcode,
)
from fuse.negotiate import InitReply, InitRequest, SessionOptions, negotiate
from fuse.operations import Operations
from fuse.reading import Answers, ReadRequest

log = logging.getLogger(__name__)

_READ_ONLY = frozenset(
    {
        Opcode.SETATTR,
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.LINK,
        Opcode.WRITE,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.CREATE,
        Opcode.FALLOCATE,
        Opcode.RENAME2,
        Opcode.COPY_FILE_RANGE,
        Opcode.TMPFILE,
        Opcode.COPY_FILE_RANGE_64,
    }
)
# Everything else is ENOSYS, which the kernel remembers and never asks again. For ACCESS,
# FLUSH, FSYNC and FSYNCDIR that means success, for LSEEK the generic implementation (all
# of a file is data), for STATX the use of GETATTR: just what an immutable tree wants.


@dataclass(frozen=True, slots=True)
class _Request:
    """The header's part that operations need, and the body."""

    unique: int
    nodeid: int
    pid: int
    body: memoryview


class Dispatcher:
    """Decodes requests, calls operations, sends answers. Used by several threads at once."""

    def __init__(
        self,
        operations: Operations,
        answers: Answers,
        options: SessionOptions,
        negotiated: InitReply | None = None,
        agreeing: Callable[[InitReply], None] | None = None,
    ) -> None:
        self._agreeing = agreeing
        self._operations = operations
        self._answers = answers
        self._options = options
        self.negotiated = negotiated
        """None until INIT is answered."""
        self.initialised = threading.Event()
        if negotiated is not None:
            self.initialised.set()
        self.parked: dict[int, ReadRequest] = {}
        """Reads not answered yet, by ``unique``."""
        self.interrupts = Interrupts(self.parked)
        self._answer: dict[int, Callable[[_Request], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.STATFS: self._statfs,
            Opcode.RELEASE: self._release,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._nothing,
            Opcode.DESTROY: self._nothing,
        }
        self._take: dict[int, Callable[[_Request], None]] = {
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.NOTIFY_REPLY: lambda _: None,
            Opcode.INIT: self._init,
        }

    def dispatch(self, message: memoryview) -> None:
        """Handle one message as read from the device. Never raises.

        Nothing keeps ``message``: its memory may be used again afterwards.
        """
        try:
            length, opcode, unique, nodeid, _, _, pid, _, _ = IN_HEADER.unpack_from(message)
        except struct.error:
            log.error("message of %d bytes is shorter than its header: ignored", len(message))
            return
        request = _Request(unique, nodeid, pid, message[IN_HEADER.size :])
        try:
            if length != len(message):
                raise ValueError(f"header says {length} bytes, message has {len(message)}")
            if opcode == Opcode.READ:
                self._read(request)
            elif (answer := self._answer.get(opcode)) is not None:
                self._answers.send(unique, 0, (answer(request),))
            elif (take := self._take.get(opcode)) is not None:
                take(request)
            else:
                self._answers.send(unique, errno.EROFS if opcode in _READ_ONLY else errno.ENOSYS)
        except Exception as error:
            number = _errno(error, opcode, nodeid)
            if opcode not in NEVER_ANSWERED:
                self._answers.send(unique, number)

    # INIT

    def _init(self, request: _Request) -> None:
        offer = InitRequest.decode(request.body)
        try:
            reply = negotiate(offer, self._options)
        except OSError as error:
            log.error("mount refused: %s", error.strerror)
            raise
        # Kept before it is sent: once sent, other threads get requests that rely on it.
        if offer.major == FUSE_KERNEL_VERSION:
            self.negotiated = self.negotiated or reply
            reply = self.negotiated
            if self._agreeing is not None:
                self._agreeing(reply)
        self._answers.send(request.unique, 0, (reply.encode(),))
        if offer.major == FUSE_KERNEL_VERSION:
            log.debug("negotiated 7.%d: %r", reply.minor, reply.flags)
            self.initialised.set()

    # Names and attributes

    def _lookup(self, request: _Request) -> bytes:
        try:
            return encode_entry(self._operations.lookup(request.nodeid, _name(request.body)))
        except FileNotFoundError:
            return NO_ENTRY

    def _forget(self, request: _Request) -> None:
        (count,) = FORGET_IN.unpack_from(request.body)
        self._operations.forget(request.nodeid, count)

    def _batch_forget(self, request: _Request) -> None:
        count, _ = BATCH_FORGET_IN.unpack_from(request.body)
        end = BATCH_FORGET_IN.size + count * FORGET_ONE.size
        for nodeid, lookups in FORGET_ONE.iter_unpack(request.body[BATCH_FORGET_IN.size : end]):
            self._operations.forget(nodeid, lookups)

    def _getattr(self, request: _Request) -> bytes:
        return encode_attr_out(self._operations.getattr(request.nodeid))

    def _readlink(self, request: _Request) -> bytes:
        return self._operations.readlink(request.nodeid)

    def _statfs(self, _: _Request) -> bytes:
        return encode_statfs(self._operations.statfs())

    def _getxattr(self, request: _Request) -> bytes:
        size, _ = GETXATTR_IN.unpack_from(request.body)
        name = _name(request.body[GETXATTR_IN.size :])
        return _fit(self._operations.getxattr(request.nodeid, name), size)

    def _listxattr(self, request: _Request) -> bytes:
        size, _ = GETXATTR_IN.unpack_from(request.body)
        names: Sequence[bytes] = self._operations.listxattr(request.nodeid)
        return _fit(b"".join(name + b"\0" for name in names), size)

    # Files

    def _open(self, request: _Request) -> bytes:
        flags, _ = OPEN_IN.unpack_from(request.body)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, "read-only file system")
        opened = self._operations.open(request.nodeid, flags)
        # NOFLUSH: close(2) asks nobody, so a process can close and exit while nobody serves.
        answer, backing = (opened.flags & ~FOPEN_PASSTHROUGH) | FOPEN_NOFLUSH, 0
        agreed = self.negotiated.flags if self.negotiated is not None else InitFlag(0)
        if opened.backing_id and InitFlag.PASSTHROUGH in agreed:
            answer = (answer | FOPEN_PASSTHROUGH) & FOPEN_PASSTHROUGH_MASK
            backing = opened.backing_id
        return OPEN_OUT.pack(opened.fh, answer, backing)

    def _read(self, request: _Request) -> None:
        fh, offset, size, _, _, _, _ = READ_IN.unpack_from(request.body)
        read = ReadRequest(
            self._answers,
            self.parked,
            unique=request.unique,
            nodeid=request.nodeid,
            fh=fh,
            offset=offset,
            size=size,
            pid=request.pid,
        )
        try:
            self._operations.read(read)
        except Exception as error:
            read.fail(_errno(error, Opcode.READ, request.nodeid))

    def _release(self, request: _Request) -> bytes:
        fh, _, _, _ = RELEASE_IN.unpack_from(request.body)
        self._operations.release(request.nodeid, fh)
        return b""

    def _interrupt(self, request: _Request) -> None:
        (unique,) = INTERRUPT_IN.unpack_from(request.body)
        self.interrupts.add(unique)

    # Directories

    def _opendir(self, _: _Request) -> bytes:
        return OPEN_OUT.pack(0, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR, 0)

    def _readdir(self, request: _Request, *, plus: bool = False) -> bytes:
        _, cookie, size, _, _, _, _ = READ_IN.unpack_from(request.body)
        entries = self._operations.readdir(request.nodeid)
        ino = self._operations.getattr(request.nodeid).ino
        return encode_directory(ino, entries, cookie, size, plus=plus)

    def _readdirplus(self, request: _Request) -> bytes:
        return self._readdir(request, plus=True)

    def _nothing(self, _: _Request) -> bytes:
        return b""


def _name(body: memoryview) -> bytes:
    """A name ended by NUL."""
    name, end, _ = bytes(body).partition(b"\0")
    if not end or not name:
        raise ValueError("name is empty or not ended by NUL")
    return name


def _fit(value: bytes, size: int) -> bytes:
    """An extended attribute's value for a buffer of ``size`` bytes; 0 asks for its length."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "buffer too small")
    return value


def _errno(error: Exception, opcode: int, nodeid: int) -> int:
    """What the caller sees of an exception; logged unless it was meant for the caller."""
    # The kernel refuses answers whose error is not within 1..511.
    if isinstance(error, OSError) and error.errno is not None and 0 < error.errno < 512:
        return error.errno
    try:
        name = Opcode(opcode).name
    except ValueError:
        name = f"opcode {opcode}"
    log.error("%s of node %d failed with EIO", name, nodeid, exc_info=error)
    return errno.EIO
