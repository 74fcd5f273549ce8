"""Writes whose pages need not stay, and when they are ordinary ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.cache.dropbehind import PAUSE, DropBehind

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def flags(monkeypatch) -> list[int]:
    """The flags of each pwritev, which is done without them."""
    seen: list[int] = []

    def pwritev(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        seen.append(flags)
        return os.pwrite(fd, buffers[0], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    return seen


def test_the_bytes_are_written_where_they_belong(file: int) -> None:
    dropping = DropBehind()
    assert dropping.write(file, memoryview(b"weights"), 5) == 7
    assert os.pread(file, 20, 0) == bytes(5) + b"weights"


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_the_kernel_cannot_an_ordinary_write_is_made_and_it_is_not_asked_again(
    file: int, monkeypatch, refusal: int
) -> None:
    asked = []

    def pwritev(*args: object) -> int:
        asked.append(args)
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "pwritev", pwritev)
    dropping = DropBehind()
    for offset in (0, 4):
        assert dropping.write(file, memoryview(b"abcd"), offset) == 4
    assert os.pread(file, 20, 0) == b"abcdabcd"
    assert len(asked) == 1


def test_what_the_disk_refuses_is_raised(file: int, monkeypatch) -> None:
    def pwritev(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", pwritev)
    with pytest.raises(OSError, match="No space left"):
        DropBehind().write(file, memoryview(b"abcd"), 0)


def test_a_disk_that_holds_writers_up_gets_ordinary_writes_for_a_while(
    file: int, flags: list[int], monkeypatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    dropping = DropBehind()
    for _ in range(100):
        dropping.took(MIB, now[0], now[0] + 0.002)
    dropping.took(MIB, now[0], now[0] + 0.05)  # once is chance
    dropping.write(file, memoryview(b"abcd"), 0)
    assert len(flags) == 1
    for _ in range(10):
        dropping.took(MIB, now[0], now[0] + 0.05)
    dropping.write(file, memoryview(b"abcd"), 0)
    assert len(flags) == 1
    now[0] += PAUSE + 0.1
    dropping.write(file, memoryview(b"abcd"), 0)
    assert len(flags) == 2


def test_small_writes_say_nothing_of_the_disk(file: int, flags: list[int]) -> None:
    dropping = DropBehind()
    for _ in range(100):
        dropping.took(1000, 0.0, 1.0)
    dropping.write(file, memoryview(b"abcd"), 0)
    assert len(flags) == 1
