"""A keeper that is none, or one of another version: the daemon gets errors, and no endless loop."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from descriptors import open_files
from fuzzing import documents, examples, is_for_people
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.link import Link
from snapshotter.keeper.messages import VERSION

HELLO = {"version": VERSION, "ok": True, "pid": 7, "since": 1.5, "count": 2}
LISTED = {"version": VERSION, "ok": True, "ids": ["a", "b"]}
GOT = {"version": VERSION, "ok": True, "record": "{}"}
REFUSED = {"version": VERSION, "ok": False, "error": "no"}
ANSWERS = documents(HELLO, LISTED, GOT, REFUSED).filter(bool)


@contextmanager
def keeper(answers: list[bytes]) -> Iterator[Path]:
    """Something that answers the requests of one connection so, the last answer again and again."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "keeper.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                number = 0
                while connection.recv(1 << 17):
                    try:
                        connection.send(answers[min(number, len(answers) - 1)])
                    except OSError:
                        return
                    number += 1

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:
                last.connect(str(path))  # should nobody have come
            thread.join()
            listener.close()


@examples(150)
@given(st.lists(ANSWERS, min_size=1, max_size=4))
def test_whatever_a_keeper_answers_is_understood_or_an_error(answers: list[bytes]) -> None:
    with keeper(answers) as path:
        link = None
        try:
            link = Link(path)
            assert link.pid >= 0
            assert all(isinstance(id, str) for id in link.ids())
            answer, files = link.ask("get", id="a")
            assert isinstance(answer, dict)
            assert files == []
        except KeeperError as error:
            is_for_people(error)
        finally:
            if link is not None:
                link.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HELLO | {"pid": "x"}, "no pid"),
        (HELLO | {"pid": None}, "no pid"),
        (HELLO | {"since": []}, "no pid"),
        (HELLO | {"version": 2}, "version 2"),
    ],
)
def test_a_keeper_that_does_not_say_who_it_is_is_told(answer: dict[str, object], why: str) -> None:
    with keeper([json.dumps(answer).encode()]) as path, pytest.raises(KeeperError, match=why):
        Link(path)


@pytest.mark.parametrize("ids", [["a"], "abc", [1], {"a": 1}, 7, [["a"]]])
def test_a_list_that_never_ends_or_is_none_is_an_error(ids: object) -> None:
    answers = [json.dumps(HELLO).encode(), json.dumps(LISTED | {"ids": ids}).encode()]
    with keeper(answers) as path:
        link = Link(path)
        with pytest.raises(KeeperError, match="no list of ids"):
            link.ids()
        link.close()


def test_files_that_come_with_an_answer_that_is_none_are_closed() -> None:
    before = open_files()
    with keeper([b"nonsense"]) as path, pytest.raises(KeeperError):
        Link(path)
    assert open_files() <= before


def test_one_that_talks_on_when_it_is_told_to_end_is_an_error() -> None:
    with keeper([json.dumps(HELLO).encode()]) as path:
        link = Link(path)
        link._socket.send(b"one more, to be answered too")
        with pytest.raises(KeeperError, match="was told to end, and does not"):
            link.quit()
        link.close()
