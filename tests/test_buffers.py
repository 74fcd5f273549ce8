"""Buffers that the kernel copies into."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from snapshotter.buffers import page_aligned


@pytest.mark.parametrize("size", [1, 4096, 4097, 1 << 20])
def test_a_buffer_begins_with_a_page_and_is_as_large_as_asked(size: int) -> None:
    buffer = page_aligned(size)
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0
    assert buffer.nbytes == size
    assert bytes(buffer) == bytes(size)


def test_a_part_of_it_is_read_into_and_outlives_the_name_of_the_whole(tmp_path: Path) -> None:
    part = page_aligned(100)[10:14]
    (tmp_path / "file").write_bytes(b"weight")
    with open(tmp_path / "file", "rb") as file:
        assert os.preadv(file.fileno(), [part], 1) == 4
    assert bytes(part) == b"eigh"


def test_a_buffer_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        page_aligned(0)
