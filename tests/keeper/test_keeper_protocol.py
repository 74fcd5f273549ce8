"""The keeper takes whatever comes, and gives back exactly what it was given."""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_files
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.link import Link, NoKeeper
from snapshotter.keeper.messages import (
    FILES_LIMIT,
    MESSAGE_LIMIT,
    RECORD_LIMIT,
    VERSION,
    BadMessage,
    close,
    decode,
    encode,
    receive,
)
from snapshotter.keeper.server import Keeper, listen
from snapshotter.keeper.shelf import Shelf


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    """Of a keeper that runs in a thread."""
    path = tmp_path / "keeper" / "keeper.sock"
    listener, lock = listen(path)
    keeper = Keeper(listener)
    thread = threading.Thread(target=keeper.serve)
    thread.start()
    yield path
    last = Link(path)
    last.ask("quit")
    last.close()
    thread.join()
    keeper.close()
    os.close(lock)


@pytest.fixture
def link(address: Path) -> Iterator[Link]:
    link = Link(address)
    yield link
    link.close()


def a_file(tmp_path: Path, content: str) -> int:
    path = tmp_path / content
    path.write_text(content)
    return os.open(path, os.O_RDONLY)


def times_open(path: Path) -> int:
    return sum(link == str(path) for _, link in open_files())


def test_what_was_put_is_given_back_with_its_files(link: Link, tmp_path: Path) -> None:
    files = [a_file(tmp_path, "one"), a_file(tmp_path, "two")]
    link.ask("put", files, id="a", record="what \u00fc is")
    close(files)
    answer, back = link.ask("get", id="a")
    assert answer["record"] == "what \u00fc is"
    assert [os.pread(fd, 10, 0) for fd in back] == [b"one", b"two"]
    close(back)


def test_another_connection_finds_what_one_left(address: Path, link: Link, tmp_path: Path) -> None:
    fd = a_file(tmp_path, "kept")
    link.ask("put", [fd], id="a", record="")
    os.close(fd)
    link.close()
    successor = Link(address)
    assert successor.ids() == ["a"]
    _, (back,) = successor.ask("get", id="a")
    assert os.pread(back, 10, 0) == b"kept"
    os.close(back)
    successor.close()


def test_putting_again_replaces_and_closes_what_was_there(link: Link, tmp_path: Path) -> None:
    fd = a_file(tmp_path, "x")
    link.ask("put", [fd], id="a", record="1")
    for _ in range(5):
        link.ask("put", [fd], id="a", record="2")
    assert times_open(tmp_path / "x") == 2
    link.ask("drop", id="a")
    link.ask("drop", id="a")
    assert times_open(tmp_path / "x") == 1
    assert link.ids() == []
    os.close(fd)


def test_many_entries_are_listed_in_parts(link: Link, tmp_path: Path) -> None:
    fd = a_file(tmp_path, "x")
    names = sorted(f"{number:x}" for number in range(600))
    for name in names:
        link.ask("put", [fd], id=name, record="")
    assert link.ids() == names
    os.close(fd)


@pytest.mark.parametrize(
    ("fields", "files", "why"),
    [
        ({"op": "put", "id": "a", "record": ""}, 0, "put brings 1 to 4 files"),
        ({"op": "put", "id": "a", "record": ""}, FILES_LIMIT + 1, "put brings 1 to 4 files"),
        ({"op": "put", "id": "../a", "record": ""}, 1, "an id has"),
        ({"op": "put", "id": "a", "record": 5}, 1, "a record is a string"),
        ({"op": "put", "id": "a", "record": "x" * (RECORD_LIMIT + 1)}, 1, "at most"),
        ({"op": "get", "id": "a"}, 0, "nothing is kept"),
        ({"op": "list", "after": 3}, 0, "after is an id"),
        ({"op": "dance"}, 1, "unknown op"),
        ({"op": "get", "id": "a", "version": 2}, 1, "version 2"),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_its_files_closed(
    link: Link, tmp_path: Path, fields: dict[str, Any], files: int, why: str
) -> None:
    sent = [a_file(tmp_path, str(number)) for number in range(files)]
    before = open_files()
    with pytest.raises(KeeperError, match=why):
        link.ask(files=sent, **fields)
    assert open_files() <= before
    assert link.ids() == []
    close(sent)


def test_a_message_that_is_too_long_is_refused_and_the_next_one_is_answered(link: Link) -> None:
    link._socket.send(b"x" * (MESSAGE_LIMIT + 2))
    raw, _ = receive(link._socket)
    assert "too long" in json.loads(raw)["error"]
    assert link.ids() == []


@examples(300)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {
                "version": st.sampled_from([VERSION, 0, "1", True, None]),
                "op": st.sampled_from(["hello", "put", "drop", "list", "get", "x", 3, None, []]),
            },
            optional={
                "id": st.one_of(st.text(), st.integers(), st.sampled_from(["a", "b"])),
                "record": st.one_of(st.text(), st.integers()),
                "after": st.one_of(st.text(), st.none()),
            },
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.integers(0, 20),
)
def test_whatever_is_sent_is_answered_and_leaks_no_file(link: Link, raw: bytes, files: int) -> None:
    fds = array.array("i", [0] * files)
    before = open_files()
    kept = len(link.ids())
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if files else []
    link._socket.sendmsg([raw], ancillary)
    answer, back = receive(link._socket)
    told = decode(answer)
    assert told["ok"] or told["error"]
    close(back)
    if told["ok"] and json.loads(raw)["op"] in ("put", "drop"):
        for id in link.ids():
            link.ask("drop", id=id)
    else:
        assert open_files() <= before
        assert len(link.ids()) == kept


@given(st.binary(max_size=200))
def test_decoding_raises_nothing_but_what_it_says(raw: bytes) -> None:
    try:
        assert decode(raw)["version"] == VERSION
    except BadMessage:
        pass


def shout(deaf: socket.socket) -> None:
    while True:
        deaf.send(encode({"op": "hello"}))


def test_a_client_that_reads_no_answers_is_let_go(address: Path, link: Link) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.connect(str(address))
        deaf.settimeout(60)
        with pytest.raises((ConnectionError, BrokenPipeError)):
            shout(deaf)
    assert link.ids() == []


def test_more_connections_than_are_served_are_closed(address: Path, link: Link) -> None:
    sockets = []
    for _ in range(40):
        another = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        another.connect(str(address))
        another.settimeout(60)
        sockets.append(another)
    closed = 0
    for another in sockets:
        try:
            another.send(encode({"op": "hello"}))
            closed += not another.recv(1 << 16)
        except OSError:
            closed += 1
        another.close()
    assert 0 < closed < 40
    assert link.ids() == []


def test_the_socket_is_its_own_users_and_has_one_keeper(address: Path, link: Link) -> None:
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    with pytest.raises(BlockingIOError):
        listen(address)
    assert link.ids() == []


def test_no_keeper_is_told_from_one_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(NoKeeper):
        Link(tmp_path / "none")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(tmp_path / "stale"))
    with pytest.raises(NoKeeper):
        Link(tmp_path / "stale")


def test_a_shelf_takes_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshotter.keeper.shelf.ENTRIES_LIMIT", 2)
    shelf = Shelf()
    for id in ("a", "b", "a"):
        shelf.answer({"op": "put", "id": id, "record": ""}, [os.dup(0)])
    with pytest.raises(BadMessage, match="the most"):
        shelf.answer({"op": "put", "id": "c", "record": ""}, [os.dup(0)])
    for id in ("a", "b"):
        shelf.answer({"op": "drop", "id": id}, [])
