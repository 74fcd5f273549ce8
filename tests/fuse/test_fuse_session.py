"""A mounted tree as programs see it."""

# Here it is the system calls that are tested.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH116, PTH208, PTH211

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from fuse_serving import Serve, plain, until

from fuse.kernel import IN_HEADER, Opcode
from fuse.mount import set_readahead
from fuse.negotiate import SessionOptions
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import Directory, File, Link, Tree

CONTENT = random.Random(7).randbytes((3 << 20) + 12345)
Child = Callable[..., Popen[str]]


def test_a_tree_is_listed_and_read(serve: Serve) -> None:
    root = serve(
        {b"a.txt": plain(b"hello"), b"sub/b.bin": plain(CONTENT), b"sub/empty": Directory()}
    ).directory
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert found == {"a.txt", "sub", "sub/b.bin", "sub/empty"}
    assert (root / "a.txt").read_bytes() == b"hello"
    assert (root / "sub/b.bin").read_bytes() == CONTENT


def test_stat_shows_what_the_tree_says(serve: Serve) -> None:
    root = serve(
        {b"f": plain(b"x" * 1000, mode=0o555, mtime_ns=1_600_000_000_123_456_789, uid=3, gid=4)}
    ).directory
    found = os.stat(root / "f")
    assert found.st_mode == stat.S_IFREG | 0o555
    assert found.st_mtime_ns == 1_600_000_000_123_456_789
    assert (found.st_size, found.st_blocks, found.st_nlink) == (1000, 2, 1)
    assert (found.st_uid, found.st_gid) == (3, 4)
    assert os.stat(root).st_ino == 1


def test_reads_anywhere_give_the_bytes_of_the_source(serve: Serve) -> None:
    root = serve({b"f": plain(CONTENT)}).directory
    chance = random.Random(1)
    fd = os.open(root / "f", os.O_RDONLY)
    try:
        for _ in range(300):
            offset = chance.randrange(len(CONTENT) + 5000)
            size = chance.choice([1, 17, 4096, 100_000, 1 << 20])
            assert os.pread(fd, size, offset) == CONTENT[offset : offset + size]
    finally:
        os.close(fd)


def test_a_file_is_mapped(serve: Serve, child: Child) -> None:
    root = serve({b"f": plain(CONTENT)}).directory
    process = child(
        "import hashlib, mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print(hashlib.sha256(mapped).hexdigest())",
        root / "f",
    )
    out, _ = process.communicate()
    assert out.strip() == hashlib.sha256(CONTENT).hexdigest()


def test_all_of_a_file_is_data(serve: Serve) -> None:
    root = serve({b"f": plain(bytes(10_000))}).directory
    fd = os.open(root / "f", os.O_RDONLY)
    try:
        assert os.lseek(fd, 5000, os.SEEK_DATA) == 5000
        assert os.lseek(fd, 5000, os.SEEK_HOLE) == 10_000
    finally:
        os.close(fd)


def test_a_second_read_comes_from_the_page_cache(serve: Serve) -> None:
    asked = []

    def read(request: ReadRequest, file: File[bytes]) -> None:
        asked.append(request.offset)
        request.reply(file.content[request.offset : request.offset + request.size])

    root = serve({b"f": plain(CONTENT)}, read=read).directory
    assert (root / "f").read_bytes() == CONTENT
    assert asked

    def comes_from_there() -> bool:
        asked.clear()
        assert (root / "f").read_bytes() == CONTENT
        return not asked

    until(comes_from_there)  # memory may have been short meanwhile


def test_a_read_is_answered_later_by_another_thread(serve: Serve) -> None:
    threads: list[threading.Thread] = []

    def read(request: ReadRequest, file: File[bytes]) -> None:
        part = file.content[request.offset : request.offset + request.size]
        threads.append(threading.Timer(0.05, request.reply, [part]))
        threads[-1].start()

    root = serve({b"f": plain(CONTENT)}, read=read).directory
    assert (root / "f").read_bytes() == CONTENT
    for thread in threads:
        thread.join()
    assert serve.mounted[0].session.parked == 0


def test_a_parked_read_delays_nobody_else(serve: Serve) -> None:
    parked: list[ReadRequest] = []

    def read(request: ReadRequest, file: File[bytes | None]) -> None:
        if file.content is None:
            parked.append(request)
        else:
            request.reply(file.content)

    root = serve(
        {b"slow": File(None, 4), b"fast": plain(b"fast")}, SessionOptions(threads=1), read
    ).directory
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((root / "slow").read_bytes()))
    reader.start()
    until(lambda: parked)
    assert (root / "fast").read_bytes() == b"fast"
    assert got == []
    parked[0].reply(b"slow")
    reader.join()
    assert got == [b"slow"]


def test_a_read_that_fails_is_the_readers_error_and_is_tried_again(serve: Serve) -> None:
    fails = [errno.EIO, errno.ESTALE]

    def read(request: ReadRequest, file: File[bytes]) -> None:
        if fails:
            request.fail(fails[0])
        else:
            request.reply(file.content)

    root = serve({b"f": plain(b"content")}, read=read).directory
    for number in list(fails):
        # The error of a failed readahead is EIO; the page is then asked for by itself.
        with pytest.raises(OSError, match=r".") as raised:
            (root / "f").read_bytes()
        assert raised.value.errno == number
        fails.pop(0)
    assert (root / "f").read_bytes() == b"content"


def test_nobody_writes(serve: Serve) -> None:
    root = serve({b"f": plain(b"x"), b"d/f": plain(b"x"), b"l": Link(b"f")}).directory
    attempts: list[Callable[[], Any]] = [
        lambda: os.open(root / "f", os.O_WRONLY),
        lambda: os.open(root / "f", os.O_RDWR),
        lambda: os.open(root / "f", os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.truncate(root / "f", 0),
        lambda: os.chmod(root / "f", 0o777),
        lambda: os.chown(root / "f", 1, 1),
        lambda: os.utime(root / "f"),
        lambda: os.mkdir(root / "new"),
        lambda: os.mkfifo(root / "new"),
        lambda: os.symlink("f", root / "new"),
        lambda: os.link(root / "f", root / "new"),
        lambda: os.rename(root / "f", root / "new"),
        lambda: os.unlink(root / "f"),
        lambda: os.rmdir(root / "d"),
        lambda: os.setxattr(root / "f", "user.a", b"b"),
        lambda: os.removexattr(root / "f", "user.a"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_a_symbolic_link_is_followed(serve: Serve) -> None:
    root = serve({b"d/f": plain(b"there"), b"l": Link(b"d/f")}).directory
    assert os.readlink(root / "l") == "d/f"
    assert (root / "l").read_bytes() == b"there"
    assert os.lstat(root / "l").st_size == 3


def test_a_large_directory_is_listed_whole(serve: Serve) -> None:
    names = [f"{n:05}-{'n' * (n % 240)}" for n in range(16_384)]
    root = serve({name.encode(): plain(b"") for name in names}).directory
    assert sorted(os.listdir(root)) == names
    with os.scandir(root) as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == 16_384


def test_a_name_may_have_255_bytes(serve: Serve) -> None:
    name = "ä" * 127 + "n"
    root = serve({name.encode(): plain(b"x")}).directory
    assert os.listdir(root) == [name]
    assert (root / name).read_bytes() == b"x"
    with pytest.raises(OSError, match=r".") as raised:
        os.stat(root / ("n" * 256))
    assert raised.value.errno in (errno.ENAMETOOLONG, errno.ENOENT)


def test_a_name_that_is_not_there_is_asked_for_once(serve: Serve) -> None:
    asked = []

    class Counting(Tree[bytes]):
        def lookup(self, parent: int, name: bytes) -> Any:
            asked.append(name)
            return super().lookup(parent, name)

    mounted = serve(Counting({b"f": plain(b"x")}, lambda request, file: None))
    for _ in range(3):
        assert not (mounted.directory / "gone").exists()
    assert asked == [b"gone"]
    assert mounted.session.notify_inval_entry(1, b"gone")
    assert not (mounted.directory / "gone").exists()
    assert asked == [b"gone"] * 2
    assert not mounted.session.notify_inval_entry(1, b"never looked up")


def test_pages_are_dropped_when_told(serve: Serve) -> None:
    content = [b"old"]
    mounted = serve({b"f": plain(b"old")}, read=lambda request, file: request.reply(content[0]))

    def kept() -> bool:
        content[0] = b"old"
        mounted.session.notify_inval_inode(2)
        assert (mounted.directory / "f").read_bytes() == b"old"
        content[0] = b"new"
        return (mounted.directory / "f").read_bytes() == b"old"

    until(kept)  # memory may have been short meanwhile
    assert mounted.session.notify_inval_inode(2)
    assert (mounted.directory / "f").read_bytes() == b"new"
    assert not mounted.session.notify_inval_inode(999)


def test_extended_attributes_are_served(serve: Serve) -> None:
    class WithAttributes(Tree[bytes]):
        def getxattr(self, nodeid: int, name: bytes) -> bytes:
            if name != b"user.digest":
                raise OSError(errno.ENODATA, "no such attribute")
            return b"sha256:0"

        def listxattr(self, nodeid: int) -> list[bytes]:
            return [b"user.digest", b"user.other"]

    root = serve(WithAttributes({b"f": plain(b"x")}, lambda request, file: None)).directory
    assert os.getxattr(root / "f", "user.digest") == b"sha256:0"
    assert os.listxattr(root / "f") == ["user.digest", "user.other"]
    with pytest.raises(OSError, match=r".") as raised:
        os.getxattr(root / "f", "user.none")
    assert raised.value.errno == errno.ENODATA


def test_a_tree_has_no_extended_attributes(serve: Serve) -> None:
    root = serve({b"f": plain(b"x")}).directory
    with pytest.raises(OSError, match=r".") as raised:
        os.getxattr(root / "f", "user.none")
    assert raised.value.errno == errno.ENODATA
    assert os.listxattr(root / "f") == []


def test_statfs_shows_a_full_file_system(serve: Serve) -> None:
    root = serve({b"f": plain(b"x" * 5000), b"g": plain(b"x")}).directory
    found = os.statvfs(root)
    assert found.f_blocks * found.f_frsize == 3 * 4096
    assert (found.f_bfree, found.f_bavail, found.f_namemax) == (0, 0, 255)
    assert found.f_flag & os.ST_RDONLY
    assert found.f_flag & os.ST_NOSUID


def test_a_call_that_asks_for_more_than_stat_is_answered(serve: Serve, child: Child) -> None:
    root = serve({b"f": plain(b"hello")}).directory
    process = child("import subprocess, sys; subprocess.run(['stat', sys.argv[1]])", root / "f")
    out, _ = process.communicate()
    assert "Size: 5" in out


def test_other_users_read_what_modes_allow(serve: Serve, child: Child, tmp_path: Path) -> None:
    root = serve({b"all": plain(b"x"), b"owner": plain(b"x", mode=0o400)}).directory
    for above in [root, *root.parents]:
        if above.stat().st_mode & 0o001 == 0:
            above.chmod(0o755)
    process = child(
        "import os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(open(sys.argv[1] + '/all').read())\n"
        "try: open(sys.argv[1] + '/owner')\n"
        "except PermissionError: print('refused')",
        root,
    )
    assert process.communicate()[0].split() == ["x", "refused"]


def test_several_sessions_live_in_one_process(serve: Serve) -> None:
    roots = [serve({b"f": plain(b"%d" % n)}).directory for n in range(4)]
    assert [(root / "f").read_bytes() for root in roots] == [b"0", b"1", b"2", b"3"]


def test_readahead_is_set_and_makes_requests_larger(serve: Serve) -> None:
    sizes = []

    def read(request: ReadRequest, file: File[bytes]) -> None:
        sizes.append(request.size)
        request.reply(file.content[request.offset : request.offset + request.size])

    root = serve({b"f": plain(CONTENT)}, read=read).directory
    assert set_readahead(root, 2048)
    assert (root / "f").read_bytes() == CONTENT
    assert max(sizes) == 1 << 20
    assert not set_readahead(root.parent, 2048)


def test_garbage_from_the_device_does_not_end_a_session() -> None:
    kernel, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    destroyed = []
    with kernel, server:
        tree = Tree({}, lambda request, file: None, destroy=lambda: destroyed.append(True))
        session = Session(server.fileno(), tree)
        session.start()
        kernel.send(b"garbage")
        kernel.send(IN_HEADER.pack(4000, Opcode.LOOKUP, 2, 1, 0, 0, 1, 0, 0))
        assert kernel.recv(4096)[4:8] == (-errno.EIO).to_bytes(4, "little", signed=True)
        kernel.send(IN_HEADER.pack(40, Opcode.STATFS, 4, 1, 0, 0, 1, 0, 0))
        assert len(kernel.recv(4096)) == 16 + 80
        assert not session.ended.is_set()
        kernel.close()
        assert session.join(60)
        assert destroyed == [True]
