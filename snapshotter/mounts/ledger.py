"""What a successor must know of a mount, in memory that the keeper holds too.

A memfd, written in place: what is in it is there for the next daemon, however and whenever
this one is killed. Everything is written before the kernel is told of it.

====================  =======================================================================
0                     magic, number of nodes, life, device, length of the INIT answer, whether
                      nodeids stay, answer
4096                  one ``int32`` for each nodeid, and one for each renewed nodeid
page after that       the journal of unanswered requests, :mod:`fuse.journal`
====================  =======================================================================
"""

from __future__ import annotations

import mmap
import os
import struct

from fuse.journal import SLOT, Journal
from fuse.negotiate import InitReply
from fuse.tree import RENEWED
from snapshotter.mounts.errors import MountError

UNUSED = 0
CACHED = -1
"""The nodeid may be open through the page cache."""
GIVEN = -2
"""Of a renewed nodeid: it was given out."""
_CLOSED = -16
"""Minus a backing id: nobody has the nodeid open with it any more, but it is still good."""


def closed(backing: int) -> int:
    """What to record when the last who had a nodeid open with ``backing`` has closed it."""
    return _CLOSED - backing


def backing_of(recorded: int) -> int:
    """The backing id in what is recorded of a nodeid, open with it or not; 0 when it has none."""
    return max(recorded, _CLOSED - recorded, 0) if recorded > 0 or recorded < _CLOSED else 0


_HEAD = struct.Struct("<8sIIQI")
_MAGIC = b"MPLEDGE1"
_INT = struct.Struct("<i")
_LIFE = 12  # offsets
_DEVICE = 16
_INIT_LENGTH = 24
_STAYS = 28
_INIT = 32
_INIT_ROOM = 128
_PAGE = 4096
_SLOTS = 1024
"""Requests that are recorded at one time: 512 KiB, of which what is used takes memory."""


class Ledger:
    """One mount's. :attr:`fd` is the owner's to close, with :meth:`close`."""

    def __init__(self, fd: int, nodes: int) -> None:
        """Take over one that :meth:`make` made; MountError when it is of another tree or
        another version."""
        self.fd = fd
        self.nodes = nodes
        size, self._journal = _layout(nodes)
        if os.fstat(fd).st_size != size:
            raise MountError("the ledger of a mount has another size than its files ask for")
        self._memory = mmap.mmap(fd, size)
        magic, recorded, *_ = _HEAD.unpack_from(self._memory)
        if (magic, recorded) != (_MAGIC, nodes):
            raise MountError("the ledger of a mount is of another version")

    @classmethod
    def make(cls, nodes: int) -> Ledger:
        """A new one, for a tree of so many nodes."""
        fd = os.memfd_create("modelpack-ledger", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _layout(nodes)[0])
            os.pwrite(fd, _HEAD.pack(_MAGIC, nodes, 0, 0, 0), 0)
            return cls(fd, nodes)
        except BaseException:
            os.close(fd)
            raise

    def begin_life(self) -> int:
        """Count one more process that serves the mount; the first is 1."""
        (life,) = struct.unpack_from("<I", self._memory, _LIFE)
        struct.pack_into("<I", self._memory, _LIFE, life + 1)
        return int(life) + 1

    @property
    def device(self) -> int:
        """st_dev of the mount; 0 as long as nobody has asked."""
        return int(struct.unpack_from("<Q", self._memory, _DEVICE)[0])

    @device.setter
    def device(self, device: int) -> None:
        struct.pack_into("<Q", self._memory, _DEVICE, device)

    @property
    def nodeids_stay(self) -> bool:
        """Whether no file may be given another nodeid any more."""
        return bool(struct.unpack_from("<I", self._memory, _STAYS)[0])

    def keep_nodeids(self) -> None:
        """See :attr:`nodeids_stay`. For the rest of the mount's life."""
        struct.pack_into("<I", self._memory, _STAYS, 1)

    @property
    def negotiated(self) -> InitReply | None:
        """The answer to INIT, once there is one."""
        (length,) = struct.unpack_from("<I", self._memory, _INIT_LENGTH)
        if length == 0:
            return None
        try:
            return InitReply.decode(self._memory[_INIT : _INIT + min(length, _INIT_ROOM)])
        except ValueError as error:
            raise MountError(f"the ledger of a mount cannot be read: {error}") from None

    def agree(self, reply: InitReply) -> None:
        """Record the answer to INIT."""
        raw = reply.encode()
        self._memory[_INIT : _INIT + len(raw)] = raw
        struct.pack_into("<I", self._memory, _INIT_LENGTH, len(raw))

    def __getitem__(self, nodeid: int) -> int:
        """What is recorded of a nodeid: a backing id (positive) with which it is open, one that
        is :func:`closed`, UNUSED, CACHED or GIVEN."""
        return int(_INT.unpack_from(self._memory, self._place(nodeid))[0])

    def __setitem__(self, nodeid: int, value: int) -> None:
        _INT.pack_into(self._memory, self._place(nodeid), value)

    def forget_backing(self, nodeid: int) -> None:
        """Its backing file, if any, must not be opened any more: neither nodeid has one."""
        for each in (nodeid & ~RENEWED, nodeid | RENEWED):
            if backing_of(self[each]):
                self[each] = GIVEN if each & RENEWED else UNUSED

    def journal(self, *, fresh: bool) -> Journal:
        return Journal(memoryview(self._memory)[self._journal :], fresh=fresh)

    def close(self) -> None:
        """Close the descriptor. The memory goes when nobody uses it any more: a late answer
        may still cross itself off."""
        os.close(self.fd)

    def _place(self, nodeid: int) -> int:
        index = (nodeid & ~RENEWED) - 1
        if not 0 <= index < self.nodes:
            raise ValueError(f"nodeid {nodeid} is none of {self.nodes}")
        return _PAGE + _INT.size * (index + (self.nodes if nodeid & RENEWED else 0))


def _layout(nodes: int) -> tuple[int, int]:
    """Size of the whole, and where the journal begins."""
    table = -(-2 * nodes * _INT.size // _PAGE) * _PAGE
    return _PAGE + table + _SLOTS * SLOT, _PAGE + table


def recorded_device(fd: int) -> int:
    """:attr:`Ledger.device` of one whose tree is not known yet; 0 when it is none of ours."""
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        return 0
    magic, _, _, device, _ = _HEAD.unpack(head)
    return int(device) if magic == _MAGIC else 0
