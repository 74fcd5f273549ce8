from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.dispatch import Dispatcher
from fuse.kernel import (
    BATCH_FORGET_IN,
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_PASSTHROUGH,
    FORGET_IN,
    FORGET_ONE,
    FUSE_UNIQUE_RESEND,
    GETXATTR_IN,
    GETXATTR_OUT,
    IN_HEADER,
    INIT_IN,
    INIT_IN_EXT,
    INTERRUPT_IN,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    InitFlag,
    Opcode,
)
from fuse.negotiate import InitReply, InitRequest, SessionOptions, negotiate
from fuse.operations import Attr, Entry, Opened, Statfs
from fuse.reading import Buffer, ReadRequest

NODE = Attr(ino=2, mode=stat.S_IFREG | 0o444, size=100)


class Recorder:
    """Answers as they would have been sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, bytes]] = []

    def send(self, unique: int, error: int, buffers: Sequence[Buffer] = ()) -> None:
        self.sent.append((unique, error, b"".join(buffers)))


class Some:
    """Operations of one file ``f`` with nodeid 2 below the root."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[int, int]] = []
        self.reads: list[ReadRequest] = []
        self.opened = Opened(fh=7)
        self.raises: Exception | None = None

    def lookup(self, parent: int, name: bytes) -> Entry:
        if self.raises is not None:
            raise self.raises
        if name != b"f":
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return Entry(name, 2, NODE)

    def forget(self, nodeid: int, count: int) -> None:
        self.forgotten.append((nodeid, count))

    def getattr(self, nodeid: int) -> Attr:
        return NODE

    def readlink(self, nodeid: int) -> bytes:
        return b"target"

    def open(self, nodeid: int, flags: int) -> Opened:
        return self.opened

    def read(self, request: ReadRequest) -> None:
        if self.raises is not None:
            raise self.raises
        self.reads.append(request)

    def release(self, nodeid: int, fh: int) -> None:
        pass

    def readdir(self, nodeid: int) -> Sequence[Entry]:
        return [Entry(b"f", 2, NODE)]

    def statfs(self) -> Statfs:
        return Statfs()

    def getxattr(self, nodeid: int, name: bytes) -> bytes:
        return b"value"

    def listxattr(self, nodeid: int) -> Sequence[bytes]:
        return [b"user.a", b"user.b"]

    def destroy(self) -> None:
        pass


class Asked:
    """A dispatcher with something on both sides of it."""

    def __init__(self, negotiated: InitReply | None = None) -> None:
        self.answers = Recorder()
        self.operations = Some()
        self.dispatcher = Dispatcher(
            self.operations, self.answers, SessionOptions(), negotiated=negotiated
        )

    def ask(self, opcode: int, body: bytes = b"", *, nodeid: int = 2, unique: int = 10) -> None:
        header = IN_HEADER.pack(40 + len(body), opcode, unique, nodeid, 0, 0, 1, 0, 0)
        self.dispatcher.dispatch(memoryview(header + body))

    @property
    def answer(self) -> tuple[int, bytes]:
        """Error and bytes of the only answer."""
        ((_, error, data),) = self.answers.sent
        return error, data


@pytest.fixture
def asked() -> Asked:
    return Asked()


def read_in(offset: int = 0, size: int = 4096) -> bytes:
    return READ_IN.pack(7, offset, size, 0, 0, 0, 0)


WRITERS = (
    "SETATTR SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK WRITE SETXATTR REMOVEXATTR CREATE "
    "FALLOCATE RENAME2 COPY_FILE_RANGE TMPFILE COPY_FILE_RANGE_64"
)


@pytest.mark.parametrize("name", WRITERS.split())
def test_whatever_writes_is_refused(asked: Asked, name: str) -> None:
    asked.ask(Opcode[name], bytes(64))
    assert asked.answer == (errno.EROFS, b"")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
def test_opening_for_writing_is_refused(asked: Asked, flags: int) -> None:
    asked.ask(Opcode.OPEN, OPEN_IN.pack(flags, 0))
    assert asked.answer == (errno.EROFS, b"")


@pytest.mark.parametrize("opcode", [Opcode.IOCTL, Opcode.POLL, Opcode.STATX, Opcode.LSEEK, 4321])
def test_what_is_not_served_is_enosys_so_that_the_kernel_stops_asking(
    asked: Asked, opcode: int
) -> None:
    asked.ask(opcode, bytes(64))
    assert asked.answer == (errno.ENOSYS, b"")


def test_a_name_that_is_not_there_is_remembered_as_such(asked: Asked) -> None:
    asked.ask(Opcode.LOOKUP, b"gone\0", nodeid=1)
    error, data = asked.answer
    assert error == 0
    assert data[:8] == bytes(8)


def test_an_exception_of_an_operation_is_eio_and_logged(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    asked.operations.raises = RuntimeError("broken")
    asked.ask(Opcode.LOOKUP, b"f\0", nodeid=1)
    assert asked.answer == (errno.EIO, b"")
    assert "LOOKUP of node 1 failed with EIO" in caplog.text
    assert "broken" in caplog.text


def test_an_oserror_of_an_operation_is_its_errno_and_not_logged(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    asked.operations.raises = PermissionError(errno.EACCES, "no")
    asked.ask(Opcode.LOOKUP, b"f\0", nodeid=1)
    assert asked.answer == (errno.EACCES, b"")
    assert not caplog.records


@pytest.mark.parametrize("number", [None, 0, -5, 512, 100_000])
def test_an_errno_the_kernel_refuses_becomes_eio(asked: Asked, number: int | None) -> None:
    error = OSError("odd")
    error.errno = number
    asked.operations.raises = error
    asked.ask(Opcode.READ, read_in())
    assert asked.answer == (errno.EIO, b"")


def test_forgetting_is_never_answered(asked: Asked) -> None:
    asked.ask(Opcode.FORGET, FORGET_IN.pack(3))
    asked.ask(
        Opcode.BATCH_FORGET,
        BATCH_FORGET_IN.pack(2, 0) + FORGET_ONE.pack(5, 1) + FORGET_ONE.pack(6, 2),
    )
    asked.ask(Opcode.FORGET)
    asked.ask(Opcode.BATCH_FORGET, BATCH_FORGET_IN.pack(9, 0) + b"cut short")
    assert asked.operations.forgotten == [(2, 3), (5, 1), (6, 2)]
    assert asked.answers.sent == []


def test_a_read_may_be_answered_later_and_once(asked: Asked) -> None:
    asked.ask(Opcode.READ, read_in(offset=8, size=4), unique=12)
    assert asked.answers.sent == []
    (request,) = asked.operations.reads
    assert (request.offset, request.size, request.fh, request.pid) == (8, 4, 7, 1)
    assert not request.answered
    request.reply(b"ab", memoryview(b"cd"))
    request.reply(b"wxyz")
    request.fail(errno.EIO)
    assert request.answered
    assert asked.answers.sent == [(12, 0, b"abcd")]
    assert asked.dispatcher.parked == {}


def test_a_read_that_raises_after_its_answer_is_answered_once(asked: Asked) -> None:
    class RepliesAndRaises(Some):
        def read(self, request: ReadRequest) -> None:
            request.reply(b"abc")
            raise RuntimeError

    dispatcher = Dispatcher(RepliesAndRaises(), asked.answers, SessionOptions())
    body = read_in()
    header = IN_HEADER.pack(40 + len(body), Opcode.READ, 10, 2, 0, 0, 1, 0, 0)
    dispatcher.dispatch(memoryview(header + body))
    assert asked.answers.sent == [(10, 0, b"abc")]


def test_the_answer_to_a_request_sent_again_carries_the_bit(asked: Asked) -> None:
    unique = 12 | FUSE_UNIQUE_RESEND
    asked.ask(Opcode.READ, read_in(), unique=unique)
    asked.operations.reads[0].reply(b"x")
    assert asked.answers.sent == [(unique, 0, b"x")]


def test_the_forerunner_of_a_request_sent_twice_does_not_unpark_it(asked: Asked) -> None:
    asked.ask(Opcode.READ, read_in())
    asked.ask(Opcode.READ, read_in())
    first, second = asked.operations.reads
    first.reply(b"x")
    assert asked.dispatcher.parked == {10: second}


def test_more_bytes_than_asked_are_an_error(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.ask(Opcode.READ, read_in(size=4))
    asked.operations.reads[0].reply(b"12345")
    assert asked.answer == (errno.EIO, b"")
    assert "replied to with 5 bytes" in caplog.text


def test_a_short_reply_within_a_limited_file_is_an_error_and_not_zeros(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    asked.ask(Opcode.READ, read_in(offset=60, size=4096))
    (request,) = asked.operations.reads
    request.limit(100)
    assert request.size == 40
    request.reply(b"too short")
    assert asked.answer == (errno.EIO, b"")


def test_a_read_beyond_a_limited_file_is_empty(asked: Asked) -> None:
    asked.ask(Opcode.READ, read_in(offset=4096))
    (request,) = asked.operations.reads
    request.limit(100)
    assert request.size == 0
    request.reply()
    assert asked.answer == (0, b"")


def test_an_extended_attribute_tells_its_length_first(asked: Asked) -> None:
    asked.ask(Opcode.GETXATTR, GETXATTR_IN.pack(0, 0) + b"user.a\0")
    asked.ask(Opcode.GETXATTR, GETXATTR_IN.pack(5, 0) + b"user.a\0")
    asked.ask(Opcode.GETXATTR, GETXATTR_IN.pack(4, 0) + b"user.a\0")
    asked.ask(Opcode.LISTXATTR, GETXATTR_IN.pack(99, 0))
    assert [(error, data) for _, error, data in asked.answers.sent] == [
        (0, GETXATTR_OUT.pack(5, 0)),
        (0, b"value"),
        (errno.ERANGE, b""),
        (0, b"user.a\0user.b\0"),
    ]


def agreed(flags: InitFlag) -> InitReply:
    return negotiate(InitRequest(7, 45, 0, flags), SessionOptions())


def test_passthrough_comes_without_the_flags_the_kernel_forbids_beside_it() -> None:
    asked = Asked(agreed(InitFlag.PASSTHROUGH))
    asked.operations.opened = Opened(fh=1, flags=FOPEN_KEEP_CACHE, backing_id=5)
    asked.ask(Opcode.OPEN, OPEN_IN.pack(0, 0))
    assert asked.answer == (0, OPEN_OUT.pack(1, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, 5))


def test_passthrough_that_was_not_negotiated_is_an_ordinary_open() -> None:
    asked = Asked(agreed(InitFlag(0)))
    asked.operations.opened = Opened(fh=1, flags=FOPEN_KEEP_CACHE | FOPEN_PASSTHROUGH, backing_id=5)
    asked.ask(Opcode.OPEN, OPEN_IN.pack(0, 0))
    assert asked.answer == (0, OPEN_OUT.pack(1, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH, 0))


def test_init_is_answered_and_kept(asked: Asked) -> None:
    offered = InitFlag.INIT_EXT | InitFlag.HAS_RESEND
    body = INIT_IN.pack(7, 45, 0, int(offered) & 0xFFFFFFFF) + INIT_IN_EXT.pack(int(offered) >> 32)
    asked.ask(Opcode.INIT, body)
    negotiated = asked.dispatcher.negotiated
    assert negotiated is not None
    assert negotiated.flags == offered
    assert asked.answer == (0, negotiated.encode())
    assert asked.dispatcher.initialised.is_set()


def test_a_later_major_version_is_asked_to_come_back_with_ours(asked: Asked) -> None:
    asked.ask(Opcode.INIT, INIT_IN.pack(8, 0, 0, 0))
    error, data = asked.answer
    assert error == 0
    assert data[:4] == INIT_IN.pack(7, 0, 0, 0)[:4]
    assert not asked.dispatcher.initialised.is_set()


def test_a_kernel_that_is_too_old_is_told_so(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    asked.ask(Opcode.INIT, INIT_IN.pack(7, 8, 0, 0))
    assert asked.answer == (errno.EPROTO, b"")
    assert "the kernel speaks FUSE 7.8" in caplog.text


@pytest.mark.parametrize(
    "body", [b"", b"x", b"no end", b"\0"], ids=["empty", "short", "endless", "nameless"]
)
@pytest.mark.parametrize("opcode", [Opcode.LOOKUP, Opcode.GETXATTR])
def test_a_malformed_request_is_eio(
    asked: Asked, opcode: Opcode, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asked.ask(opcode, body)
    assert asked.answer == (errno.EIO, b"")


def test_a_message_of_another_length_than_it_says_is_eio(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    header = IN_HEADER.pack(41, Opcode.STATFS, 10, 1, 0, 0, 1, 0, 0)
    asked.dispatcher.dispatch(memoryview(header))
    assert asked.answer == (errno.EIO, b"")


SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}

MESSAGES = st.builds(
    lambda opcode, body, nodeid: (
        opcode,
        IN_HEADER.pack(40 + len(body), opcode, 10, nodeid, 0, 0, 0, 0, 0) + body,
    ),
    st.sampled_from(sorted(Opcode)) | st.integers(min_value=0, max_value=2**32 - 1),
    st.binary(max_size=120)
    | st.builds(lambda cookie, size: READ_IN.pack(0, cookie, size, 0, 0, 0, 0),
                st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
    | st.builds(lambda fh, flags: RELEASE_IN.pack(fh, flags, 0, 0),
                st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
    | st.builds(INTERRUPT_IN.pack, st.sampled_from([10, 12])),
    st.integers(min_value=0, max_value=2**64 - 1),
)  # fmt: skip


@given(st.lists(MESSAGES, max_size=5))
def test_whatever_comes_is_answered_at_most_once_and_never_raises(
    messages: list[tuple[int, bytes]],
) -> None:
    logging.disable(logging.CRITICAL)
    try:
        asked = Asked()
        for opcode, message in messages:
            before = len(asked.answers.sent)
            asked.dispatcher.dispatch(memoryview(message))
            answers = asked.answers.sent[before:]
            if opcode in SILENT:
                assert answers == []
            elif opcode == Opcode.READ:
                assert len(answers) <= 1
            else:
                assert len(answers) == 1
            assert all(0 <= error < 512 for _, error, _ in answers)
    finally:
        logging.disable(logging.NOTSET)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_without_an_exception(message: bytes) -> None:
    logging.disable(logging.CRITICAL)
    try:
        Asked().dispatcher.dispatch(memoryview(message))
    finally:
        logging.disable(logging.NOTSET)
