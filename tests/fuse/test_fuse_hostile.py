"""A session given requests that no kernel sends: it answers or ignores them, and serves on.

The device is a socket that keeps messages apart, as /dev/fuse does; all else is the real thing.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fuse_serving import plain, read_content
from fuzzing import damaged, examples
from hypothesis import given
from hypothesis import strategies as st

from fuse.journal import SLOT, Journal
from fuse.kernel import (
    BATCH_FORGET_IN,
    FORGET_ONE,
    IN_HEADER,
    INIT_IN,
    NEVER_ANSWERED,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    InitFlag,
    Opcode,
)
from fuse.negotiate import InitRequest, SessionOptions, negotiate
from fuse.session import Session
from fuse.tree import Directory, Link, Tree

TREE = {b"a": plain(b"hello" * 999), b"d/b": plain(b""), b"e": Directory(), b"l": Link(b"a")}
ALIVE = 0x5A11_7E57_A11E
"""The ``unique`` of a request that is always in order."""


def message(opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1) -> bytes:
    length = IN_HEADER.size + len(body)
    return IN_HEADER.pack(length, opcode, unique, nodeid, 0, 0, 7, 0, 0) + body


SOUND = [
    message(Opcode.INIT, INIT_IN.pack(7, 39, 1 << 20, (1 << 32) - 1) + bytes(48)),
    message(Opcode.LOOKUP, b"a\0"),
    message(Opcode.GETATTR, bytes(16)),
    message(Opcode.READLINK, nodeid=5),
    message(Opcode.OPEN, bytes(8), nodeid=2),
    message(Opcode.READ, READ_IN.pack(0, 0, 1 << 20, 0, 0, 0, 0), nodeid=2),
    message(Opcode.READDIR, READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)),
    message(Opcode.READDIRPLUS, READ_IN.pack(0, 2, 4096, 0, 0, 0, 0)),
    message(Opcode.RELEASE, RELEASE_IN.pack(0, 0, 0, 0), nodeid=2),
    message(Opcode.FORGET, bytes(8), nodeid=2),
    message(Opcode.BATCH_FORGET, BATCH_FORGET_IN.pack(2, 0) + FORGET_ONE.pack(2, 1) * 2),
    message(Opcode.INTERRUPT, (2).to_bytes(8, "little")),
    message(Opcode.GETXATTR, bytes(8) + b"user.x\0"),
    message(Opcode.LISTXATTR, bytes(8)),
    message(Opcode.STATFS),
    message(Opcode.NOTIFY_REPLY, bytes(40)),
    message(Opcode.DESTROY),
]
MESSAGES = st.one_of(
    damaged(*SOUND),
    st.binary(min_size=1, max_size=200),
    st.builds(
        lambda opcode, body, unique, nodeid: message(opcode, body, unique=unique, nodeid=nodeid),
        st.sampled_from(sorted(Opcode)) | st.integers(0, (1 << 32) - 1),
        st.binary(max_size=4000),
        st.integers(0, 1 << 40),
        st.integers(0, (1 << 64) - 1),
    ),
).filter(lambda raw: len(raw) > 0)


class Kernel:
    """The other end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(60)

    def send(self, raw: bytes) -> None:
        self._end.send(raw)

    def answers_until_alive(self) -> list[int]:
        """What was answered, by ``unique``, before the answer to a request that is in order."""
        self.send(message(Opcode.GETATTR, bytes(16), unique=ALIVE))
        found = []
        while True:
            answer = self._end.recv(2 << 20)
            length, error, unique = OUT_HEADER.unpack_from(answer)
            assert length == len(answer)
            assert -512 < error <= 0
            if unique == ALIVE:
                assert error == 0
                return found
            found.append(unique)


@contextmanager
def serving(journal: Journal | None) -> Iterator[Kernel]:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, kernels):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    with ours, kernels:
        fd = os.dup(ours.fileno())
        session = Session(fd, Tree(TREE, read_content), journal=journal)
        session.start()
        try:
            yield Kernel(kernels)
            assert not session.ended.is_set()
        finally:
            session.stop()
            os.close(fd)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """It logs each; here there are thousands."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("journaled", [False, True])
def test_what_is_in_order_is_answered_once(journaled: bool) -> None:
    with serving(Journal(memoryview(bytearray(64 * SLOT)), fresh=True) if journaled else None) as k:
        for raw in SOUND:
            k.send(raw)
        expected = [raw for raw in SOUND if IN_HEADER.unpack_from(raw)[1] not in NEVER_ANSWERED]
        answered: list[int] = []
        while len(answered) < len(expected):
            answered += k.answers_until_alive()
        assert answered == [2] * len(expected)


@pytest.mark.parametrize("journaled", [False, True])
@examples(60)
@given(batches=st.lists(MESSAGES, min_size=1, max_size=30))
def test_whatever_comes_the_session_serves_on(journaled: bool, batches: list[bytes]) -> None:
    with serving(Journal(memoryview(bytearray(8 * SLOT)), fresh=True) if journaled else None) as k:
        for raw in batches:
            k.send(raw)
        k.answers_until_alive()


LEFT = st.binary(max_size=4 * SLOT) | damaged(b"".join(raw.ljust(SLOT, b"\0") for raw in SOUND[:4]))


@given(LEFT)
def test_whatever_an_earlier_life_left_in_the_journal_the_next_one_serves(left: bytes) -> None:
    journal = Journal(memoryview(bytearray(left[: 4 * SLOT].ljust(4 * SLOT, b"\0"))))
    offer = InitRequest(7, 39, 1 << 20, InitFlag.MAX_PAGES)  # no RESEND: the journal counts
    negotiated = negotiate(offer, SessionOptions())
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernels:
        tree = Tree(TREE, read_content)
        session = Session(ours.fileno(), tree, negotiated=negotiated, journal=journal)
        session.start()
        session.resume()
        Kernel(kernels).answers_until_alive()
        session.stop()
