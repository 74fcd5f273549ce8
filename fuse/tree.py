"""An immutable tree of files, directories and symbolic links, made ready to serve.

You give paths and nodes, and a function that reads; lookup, attributes, listings and links
are answered from here. Nodeids follow from the paths alone, so a process that takes over
a mount and builds the same tree gives the same answers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

from fuse.kernel import FUSE_ROOT_ID
from fuse.operations import Attr, Entry, Opened, Statfs
from fuse.reading import ReadRequest

NAME_MAX = 255
_BSIZE = 4096
RENEWED = 1 << 48
"""Added to a file's nodeid by :meth:`Tree.renew`."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class File(Generic[_T]):
    """A regular file."""

    content: _T
    """Whatever your functions need to know of it."""
    size: int
    """Bytes."""
    mode: int = 0o444
    """Permission bits."""
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; needed only where it is empty or its attributes matter."""

    mode: int = 0o555
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: bytes
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(slots=True)
class _Placed(Generic[_T]):
    """A node in its place."""

    node: File[_T] | Directory | Link
    parent: int
    name: bytes
    position: int
    """Among its parent's entries."""
    attr: Attr
    nodeid: int
    """The one given out now."""
    entries: list[Entry] = field(default_factory=list)
    names: dict[bytes, int] = field(default_factory=dict)
    """Of a directory: position of each entry."""


class Tree(Generic[_T]):
    """:class:`~fuse.operations.Operations` over a fixed set of nodes.

    ``nodes`` are by path: components joined by ``/``, without one in front. Directories
    between are made. ``b""`` may be given for the root's attributes.

    ``read`` is called with requests cut at the end of the file and never empty; it answers
    with exactly ``request.size`` bytes or fails, now or later, and does not block.
    ``open`` and ``release`` are called for files, if given. ``blksize`` is st_blksize.

    :class:`ValueError` for paths that cannot be: empty, ``.`` or ``..`` components, NUL,
    names over 255 bytes, something below what is no directory.
    """

    def __init__(
        self,
        nodes: Mapping[bytes, File[_T] | Directory | Link],
        read: Callable[[ReadRequest, File[_T]], None],
        *,
        open: Callable[[int, File[_T]], Opened] | None = None,
        release: Callable[[int, int, File[_T]], None] | None = None,
        destroy: Callable[[], None] | None = None,
        blksize: int = 4096,
    ) -> None:
        self._read = read
        self._open = open
        self._release = release
        self._destroy = destroy
        self._blksize = blksize
        self._placed = self._place(_with_parents(nodes))
        files = [placed for placed in self._placed if isinstance(placed.node, File)]
        blocks = sum(-(-file.attr.size // _BSIZE) for file in files)
        self._statfs = Statfs(blocks=blocks, files=len(self._placed), bsize=_BSIZE)

    def clear(self) -> None:
        """Let go of everything that was given: nothing is served any more.

        What serves a tree is usually known to its functions, so nothing else would free it
        before the collector of cycles comes by.
        """
        del self._read, self._open, self._release, self._destroy
        self._placed.clear()

    # Places

    def __len__(self) -> int:
        """How many nodes there are; nodeids are 1 to this, and those with RENEWED added."""
        return len(self._placed)

    def nodeid(self, path: bytes) -> int:
        """The nodeid ``path`` has now; FileNotFoundError when there is none."""
        nodeid = FUSE_ROOT_ID
        for name in path.split(b"/") if path else ():
            nodeid = self.lookup(nodeid, name).nodeid
        return nodeid

    def renew(self, nodeid: int) -> tuple[int, bytes]:
        """Give out a second nodeid for a file from now on; its parent and name, for
        :meth:`fuse.session.Session.notify_inval_entry`.

        A nodeid that is open without passthrough cannot be opened with it. After this and
        the notification, the next open of the path comes with the new nodeid, of the same
        inode number, while descriptors and mappings of the old one go on. Both nodeids
        mean this file for ever, also in a successor. Doing it again changes nothing.
        """
        placed, _ = self._file(nodeid)
        placed.nodeid |= RENEWED
        parent = self._directory(placed.parent)
        parent.entries[placed.position] = _entry(placed)
        return placed.parent, placed.name

    def renewed(self, nodeid: int) -> bool:
        """Whether ``nodeid`` is one that :meth:`renew` brought."""
        return bool(nodeid & RENEWED)

    # Operations

    def lookup(self, parent: int, name: bytes) -> Entry:
        directory = self._directory(parent)
        position = directory.names.get(name)
        if position is None:
            _raise(errno.ENOENT)
        return directory.entries[position]

    def forget(self, nodeid: int, count: int) -> None:
        """Nothing is counted: every node lives as long as the tree."""

    def getattr(self, nodeid: int) -> Attr:
        return self._find(nodeid).attr

    def readlink(self, nodeid: int) -> bytes:
        node = self._find(nodeid).node
        if not isinstance(node, Link):
            _raise(errno.EINVAL)
        return node.target

    def open(self, nodeid: int, flags: int) -> Opened:  # noqa: ARG002
        _, node = self._file(nodeid)
        return self._open(nodeid, node) if self._open is not None else Opened()

    def read(self, request: ReadRequest) -> None:
        _, node = self._file(request.nodeid)
        request.limit(node.size)
        if request.size == 0:
            request.reply()
        else:
            self._read(request, node)

    def release(self, nodeid: int, fh: int) -> None:
        _, node = self._file(nodeid)
        if self._release is not None:
            self._release(nodeid, fh, node)

    def readdir(self, nodeid: int) -> Sequence[Entry]:
        return self._directory(nodeid).entries

    def statfs(self) -> Statfs:
        return self._statfs

    # There are none. That is not the same as being unable to have any, ENOSYS, which the kernel
    # would remember and spare us the question: what builds images gives up then.
    def getxattr(self, nodeid: int, name: bytes) -> bytes:  # noqa: ARG002
        _raise(errno.ENODATA)

    def listxattr(self, nodeid: int) -> Sequence[bytes]:  # noqa: ARG002
        return ()

    def destroy(self) -> None:
        if self._destroy is not None:
            self._destroy()

    # Making and finding

    def _place(self, nodes: Mapping[bytes, File[_T] | Directory | Link]) -> list[_Placed[_T]]:
        placed: list[_Placed[_T]] = []
        nodeids: dict[bytes, int] = {}
        children = _children(nodes)
        for nodeid, (path, node) in enumerate(sorted(nodes.items()), start=FUSE_ROOT_ID):
            nodeids[path] = nodeid
            above, _, name = path.rpartition(b"/")
            parent = nodeids[above] if path else nodeid
            attr = _attr(nodeid, node, self._blksize, children.get(path, 0))
            new = _Placed(node, parent, name, 0, attr, nodeid)
            placed.append(new)
            if path:
                directory = placed[parent - FUSE_ROOT_ID]
                new.position = len(directory.entries)
                directory.names[name] = new.position
                directory.entries.append(_entry(new))
        return placed

    def _find(self, nodeid: int) -> _Placed[_T]:
        index = (nodeid & ~RENEWED) - FUSE_ROOT_ID
        if not 0 <= index < len(self._placed):
            _raise(errno.ESTALE)
        return self._placed[index]

    def _directory(self, nodeid: int) -> _Placed[_T]:
        placed = self._find(nodeid)
        if not isinstance(placed.node, Directory):
            _raise(errno.ENOTDIR)
        return placed

    def _file(self, nodeid: int) -> tuple[_Placed[_T], File[_T]]:
        placed = self._find(nodeid)
        if not isinstance(placed.node, File):
            _raise(errno.EISDIR if isinstance(placed.node, Directory) else errno.EINVAL)
        return placed, placed.node


def _with_parents(
    nodes: Mapping[bytes, File[_T] | Directory | Link],
) -> dict[bytes, File[_T] | Directory | Link]:
    """Nodes and the directories their paths go through; ValueError for impossible paths."""
    whole: dict[bytes, File[_T] | Directory | Link] = {b"": Directory(), **nodes}
    if not isinstance(whole[b""], Directory):
        raise ValueError("the root is no directory")
    for path in nodes:
        components = path.split(b"/") if path else []
        for name in components:
            if name in (b"", b".", b"..") or b"\0" in name or len(name) > NAME_MAX:
                raise ValueError(f"{path!r} is no path of a file in a tree")
        for depth in range(1, len(components)):
            above = b"/".join(components[:depth])
            if not isinstance(whole.setdefault(above, Directory()), Directory):
                raise ValueError(f"{path!r} lies below {above!r}, which is no directory")
    return whole


def _children(nodes: Mapping[bytes, File[_T] | Directory | Link]) -> dict[bytes, int]:
    """How many directories each directory holds."""
    counts: dict[bytes, int] = {}
    for path, node in nodes.items():
        if path and isinstance(node, Directory):
            above = path.rpartition(b"/")[0]
            counts[above] = counts.get(above, 0) + 1
    return counts


def _attr(ino: int, node: File[_T] | Directory | Link, blksize: int, directories: int) -> Attr:
    match node:
        case File(size=size, mode=mode):
            kind, nlink = stat.S_IFREG | stat.S_IMODE(mode), 1
        case Directory(mode=mode):
            kind, size, nlink = stat.S_IFDIR | stat.S_IMODE(mode), 0, 2 + directories
        case Link(target=target):
            kind, size, nlink = stat.S_IFLNK | 0o777, len(target), 1
    return Attr(ino, kind, size, node.mtime_ns, nlink, node.uid, node.gid, blksize)


def _entry(placed: _Placed[_T]) -> Entry:
    return Entry(placed.name, placed.nodeid, placed.attr)


def _raise(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
