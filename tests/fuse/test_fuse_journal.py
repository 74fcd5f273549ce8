"""Requests that outlive the process that read them."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from fuse_serving import plain, until
from hypothesis import given
from hypothesis import strategies as st

import fuse.negotiate
from fuse.journal import SLOT, Journal
from fuse.kernel import IN_HEADER, InitFlag, Opcode
from fuse.mount import mount, unmount
from fuse.negotiate import InitReply
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import File, Tree


def message(unique: int, opcode: Opcode = Opcode.READ, body: bytes = b"") -> bytes:
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, 1, 0, 0, 0, 0, 0) + body


class Pipe:
    """Gives one message a read, as the device does."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def read(journal: Journal, raw: bytes) -> bytes:
    pipe = Pipe()
    try:
        os.write(pipe.writing, raw)
        return bytes(journal.read(pipe.reading, memoryview(bytearray(8192))))
    finally:
        pipe.close()


def test_what_is_not_answered_is_found_by_the_next_one() -> None:
    memory = memoryview(bytearray(4 * SLOT))
    journal = Journal(memory, fresh=True)
    for unique in (2, 4, 6):
        assert read(journal, message(unique, body=b"x")) == message(unique, body=b"x")
    journal.answered(4)
    journal.answered(100)
    assert Journal(memory).unanswered() == {
        2: message(2, body=b"x"),
        6: message(6, body=b"x"),
    }


def test_what_nobody_answers_takes_no_slot() -> None:
    memory = memoryview(bytearray(2 * SLOT))
    journal = Journal(memory, fresh=True)
    for unique in range(2, 20, 2):
        read(journal, message(unique, Opcode.FORGET, bytes(8)))
    assert Journal(memory).unanswered() == {}


def test_more_requests_than_slots_are_read_all_the_same() -> None:
    memory = memoryview(bytearray(2 * SLOT))
    journal = Journal(memory, fresh=True)
    for unique in (2, 4, 6, 8):
        assert read(journal, message(unique)) == message(unique)
    assert list(journal.unanswered()) == [2, 4]
    journal.answered(2)
    read(journal, message(10))
    assert sorted(journal.unanswered()) == [4, 10]


def test_a_request_longer_than_a_slot_is_whole_for_us_and_cut_for_a_successor() -> None:
    memory = memoryview(bytearray(SLOT))
    long = message(2, Opcode.SETXATTR, b"v" * 2000)
    assert read(Journal(memory, fresh=True), long) == long
    assert Journal(memory).unanswered() == {2: long[:SLOT]}


def test_nothing_to_read_takes_no_slot() -> None:
    memory = memoryview(bytearray(SLOT))
    journal = Journal(memory, fresh=True)
    pipe = Pipe()
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            journal.read(pipe.reading, memoryview(bytearray(8192)))
    pipe.close()
    read(journal, message(2))
    assert list(Journal(memory).unanswered()) == [2]


@given(st.binary(min_size=4 * SLOT, max_size=4 * SLOT))
def test_memory_of_whatever_content_is_read(raw: bytes) -> None:
    memory = memoryview(bytearray(raw))
    for unique, found in Journal(memory).unanswered().items():
        assert IN_HEADER.unpack_from(found)[2] == unique


def test_a_read_is_answered_by_a_successor_that_the_kernel_does_not_send_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse.negotiate, "_WANTED", fuse.negotiate._WANTED & ~InitFlag.HAS_RESEND)
    directory = tmp_path / "mnt"
    directory.mkdir()
    memory = memoryview(bytearray(64 * SLOT))
    asked = threading.Event()
    agreed: list[InitReply] = []

    def never(request: ReadRequest, _: File[bytes]) -> None:
        asked.set()

    def answer(request: ReadRequest, file: File[bytes]) -> None:
        request.reply(memoryview(file.content)[request.offset : request.offset + request.size])

    fd = mount(directory, fsname="a test", subtype="modelpack-test")
    nodes = {b"file": plain(b"content")}
    first = Session(
        fd, Tree(nodes, never), agreeing=agreed.append, journal=Journal(memory, fresh=True)
    )
    first.start()
    try:
        with subprocess.Popen(["cat", directory / "file"], stdout=subprocess.PIPE) as reader:
            assert asked.wait(30)
            first.stop()
            second = Session(fd, Tree(nodes, answer), negotiated=agreed[0], journal=Journal(memory))
            second.start()
            second.resume()
            assert reader.communicate(timeout=30)[0] == b"content"
        until(lambda: not Journal(memory).unanswered())
    finally:
        unmount(directory, lazy=True)
        assert second.ended.wait(30)
        os.close(fd)
