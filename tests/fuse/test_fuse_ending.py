"""How mounts, readers and sessions end, and how one session follows another."""

# Here it is the system calls that are tested.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import hashlib
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from fuse_serving import Serve, plain, read_content, until

from fuse.kernel import FUSE_UNIQUE_RESEND
from fuse.mount import MountError, fuse_mounts, unmount
from fuse.negotiate import InitReply, SessionOptions
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import File, Tree

Child = Callable[..., Popen[str]]

READ_ONE_PAGE = (
    # A page fault without readahead: the kernel waits for just this one request.
    "import mmap, signal, sys\n"
    "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    "file = open(sys.argv[1], 'rb')\n"
    "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
    "mapped.madvise(mmap.MADV_RANDOM)\n"
    "print('ready', flush=True)\n"
    "print(mapped[:4].decode(), flush=True)\n"
)


class Parking:
    """A read function that keeps requests for later."""

    def __init__(self) -> None:
        self.requests: list[ReadRequest] = []

    def __call__(self, request: ReadRequest, file: File[bytes]) -> None:
        self.requests.append(request)

    def wait(self, count: int = 1) -> ReadRequest:
        until(lambda: len(self.requests) >= count)
        return self.requests[count - 1]


def test_unmounting_ends_the_session_and_destroys_once(serve: Serve) -> None:
    destroyed: list[bool] = []
    mounted = serve(
        Tree({b"f": plain(b"x")}, read_content, destroy=lambda: destroyed.append(True)),
        SessionOptions(threads=3),
    )
    assert (mounted.directory / "f").read_bytes() == b"x"
    assert not mounted.session.ended.is_set()
    unmount(mounted.directory)
    assert mounted.session.join(60)
    assert destroyed == [True]
    mounted.session.stop()
    assert destroyed == [True]


def test_a_mount_in_use_is_not_unmounted(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    with open(mounted.directory / "f", "rb"), pytest.raises(MountError, match="in use") as busy:
        unmount(mounted.directory)
    assert busy.value.errno == errno.EBUSY


def test_a_file_held_open_is_read_on_after_a_lazy_unmount(serve: Serve) -> None:
    mounted = serve({b"f": plain(bytes(range(256)) * 4096)})
    fd = os.open(mounted.directory / "f", os.O_RDONLY)
    try:
        unmount(mounted.directory, lazy=True)
        assert os.listdir(mounted.directory) == []
        assert os.pread(fd, 256, 512 * 1024) == bytes(range(256))
        assert not mounted.session.ended.is_set()
    finally:
        os.close(fd)
    assert mounted.session.join(60)


def test_closing_a_file_does_not_wait_for_anybody_to_serve(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    fd = os.open(mounted.directory / "f", os.O_RDONLY)
    mounted.session.stop()
    os.close(fd)


def test_an_answer_after_the_end_goes_nowhere(serve: Serve, child: Child, tmp_path: Path) -> None:
    park = Parking()
    mounted = serve({b"f": plain(b"text")}, read=park)
    reader = child(READ_ONE_PAGE, mounted.directory / "f")
    request = park.wait()
    mounted.session.stop()
    with open(tmp_path / "other", "wb") as other:
        os.dup2(other.fileno(), mounted.fd)  # the number now belongs to somebody else
    request.reply(b"text")
    assert os.fstat(mounted.fd).st_size == 0
    assert reader.wait() == -signal.SIGBUS


def test_a_closed_descriptor_leaves_a_dead_mount_that_is_named(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    mounted.session.stop()
    os.close(mounted.fd)
    with pytest.raises(OSError, match=r".") as dead:
        os.listdir(mounted.directory)
    assert dead.value.errno == errno.ENOTCONN
    assert mounted.directory in [m.mount_point for m in fuse_mounts("modelpack-test")]
    unmount(mounted.directory)
    assert mounted.directory not in [m.mount_point for m in fuse_mounts("modelpack-test")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_reader_killed_while_its_read_is_parked_dies(
    serve: Serve, child: Child, number: signal.Signals
) -> None:
    park = Parking()
    mounted = serve({b"f": plain(b"text" * 4096)}, read=park)
    reader = child(READ_ONE_PAGE, mounted.directory / "f")
    request = park.wait()
    assert request.pid == reader.pid
    reader.send_signal(number)
    assert reader.wait() == -number
    until(lambda: request.answered)
    assert request.interrupted
    assert mounted.session.parked == 0


def test_a_reader_of_many_pages_killed_while_they_are_parked_dies(
    serve: Serve, child: Child
) -> None:
    park = Parking()
    mounted = serve({b"f": plain(b"text" * 4096)}, read=park)
    reader = child("import sys; open(sys.argv[1]).read()", mounted.directory / "f")
    park.wait()
    reader.kill()
    assert reader.wait() == -signal.SIGKILL
    for request in park.requests:
        request.fail(errno.EIO)


def test_a_signal_with_a_handler_does_not_fail_a_read(serve: Serve, child: Child) -> None:
    park = Parking()
    mounted = serve({b"f": plain(b"text")}, read=park)
    reader = child(READ_ONE_PAGE, mounted.directory / "f")
    request = park.wait()
    reader.send_signal(signal.SIGUSR1)
    until(lambda: request.interrupted)
    assert not request.answered
    request.reply(b"text")
    assert reader.communicate()[0] == "ready\ntext\n"
    assert reader.returncode == 0


def test_a_reader_killed_after_a_harmless_signal_dies(serve: Serve, child: Child) -> None:
    park = Parking()
    mounted = serve({b"f": plain(b"text")}, read=park)
    reader = child(READ_ONE_PAGE, mounted.directory / "f")
    request = park.wait()
    reader.send_signal(signal.SIGUSR1)
    until(lambda: request.interrupted)
    reader.kill()
    assert reader.wait() == -signal.SIGKILL


def test_a_stopped_session_leaves_requests_to_its_successor(serve: Serve, child: Child) -> None:
    content = os.urandom(300_000)
    park = Parking()
    mounted = serve({b"d/f": plain(content)}, read=park)
    reader = child(
        "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())",
        mounted.directory / "d/f",
    )
    parked = park.wait()
    mounted.session.stop()
    assert not mounted.session.ended.is_set()
    duplicate = os.dup(mounted.fd)
    os.close(mounted.fd)

    resent: list[int] = []

    def read(request: ReadRequest, file: File[bytes]) -> None:
        resent.append(request.unique)
        read_content(request, file)

    kept = mounted.session.negotiated
    assert kept is not None
    successor = Session(
        duplicate,
        Tree({b"d/f": plain(content)}, read),
        negotiated=InitReply.decode(kept.encode()),
    )
    mounted.fd, mounted.session = duplicate, successor
    successor.start()
    successor.notify_resend()
    assert reader.communicate()[0].strip() == hashlib.sha256(content).hexdigest()
    assert parked.unique | FUSE_UNIQUE_RESEND in resent
    parked.reply(b"too late")
    assert (mounted.directory / "d/f").read_bytes() == content
    unmount(mounted.directory)
    assert successor.join(60)


def test_requests_made_while_nobody_serves_wait_for_the_successor(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    assert mounted.session.wait_initialised(60)
    mounted.session.stop()
    found: list[list[str]] = []
    reader = threading.Thread(target=lambda: found.append(os.listdir(mounted.directory)))
    reader.start()
    # Readable: the request is waiting there.
    with select.epoll() as waiting:
        waiting.register(mounted.fd, select.EPOLLIN)
        assert waiting.poll()
    assert found == []
    mounted.session = Session(
        mounted.fd, Tree({b"f": plain(b"x")}, read_content), negotiated=mounted.session.negotiated
    )
    mounted.session.start()
    reader.join()
    assert found == [["f"]]


def test_a_session_that_cannot_read_its_descriptor_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.open("/dev/fuse", os.O_RDWR)  # never mounted: read(2) fails with EPERM
    try:
        session = Session(fd, Tree({}, read_content))
        session.start()
        assert session.join(60)
        assert "cannot read its device" in caplog.text
    finally:
        os.close(fd)


def test_a_session_starts_once(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    with pytest.raises(RuntimeError):
        mounted.session.start()
    mounted.session.stop()
    mounted.session.stop()


def test_notifications_after_the_end_find_nobody_to_tell(serve: Serve) -> None:
    """Whoever learns something of a file cannot know that its mount ends meanwhile."""
    mounted = serve({b"f": plain(b"x")})
    assert (mounted.directory / "f").read_bytes() == b"x"
    unmount(mounted.directory)
    assert mounted.session.join(60)
    assert not mounted.session.notify_inval_entry(1, b"f")
    assert not mounted.session.notify_inval_inode(2)
