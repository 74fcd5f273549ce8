from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from fuse.encode import (
    NO_ENTRY,
    encode_attr,
    encode_attr_out,
    encode_directory,
    encode_dirent,
    encode_entry,
    encode_statfs,
)
from fuse.kernel import ATTR, ATTR_OUT, DIRENT, ENTRY_OUT, STATFS_OUT
from fuse.operations import Attr, Entry, Statfs

FILE = Attr(ino=9, mode=stat.S_IFREG | 0o444, size=1025, mtime_ns=1_700_000_000_000_000_001)


def directory(*names: bytes) -> list[Entry]:
    return [Entry(name, n, FILE) for n, name in enumerate(names, start=2)]


def decode_directory(data: bytes, *, plus: bool) -> list[tuple[bytes, int, int]]:
    """Name, cookie and nodeid (0 without plus) of each record, as the kernel walks them."""
    found = []
    while data:
        nodeid = 0
        if plus:
            nodeid = ENTRY_OUT.unpack_from(data)[0]
            data = data[ENTRY_OUT.size + ATTR.size :]
        _, cookie, length, _ = DIRENT.unpack_from(data)
        found.append((data[DIRENT.size : DIRENT.size + length], cookie, nodeid))
        data = data[DIRENT.size + length + -(DIRENT.size + length) % 8 :]
    return found


def test_sizes_are_those_of_the_kernel_structs() -> None:
    assert len(encode_attr(FILE)) == 88
    assert len(encode_attr_out(FILE)) == 104
    assert len(encode_entry(Entry(b"a", 2, FILE))) == len(NO_ENTRY) == 128
    assert len(encode_statfs(Statfs())) == 80
    assert DIRENT.size == 24
    assert ATTR_OUT.size == 16


def test_a_file_has_one_time_with_nanoseconds_and_counts_blocks_of_512() -> None:
    fields = ATTR.unpack(encode_attr(FILE))
    assert fields[:3] == (9, 1025, 3)
    assert fields[3:6] == (1_700_000_000,) * 3
    assert fields[6:9] == (1,) * 3


def test_a_full_file_system_has_no_free_blocks() -> None:
    assert STATFS_OUT.unpack(encode_statfs(Statfs(blocks=7, files=3)))[:5] == (7, 0, 0, 3, 0)


def test_records_are_padded_to_eight_bytes() -> None:
    for length in range(1, 256):
        assert len(encode_dirent(1, 1, b"n" * length, FILE.mode)) % 8 == 0


def test_the_type_of_an_entry_is_the_one_of_its_mode() -> None:
    assert DIRENT.unpack_from(encode_dirent(5, 1, b"f", stat.S_IFREG))[3] == 8
    assert DIRENT.unpack_from(encode_dirent(5, 1, b"d", stat.S_IFDIR | 0o555))[3] == 4
    assert DIRENT.unpack_from(encode_dirent(5, 1, b"l", stat.S_IFLNK))[3] == 10


def test_dot_and_dotdot_come_first_and_are_no_lookups() -> None:
    records = decode_directory(encode_directory(1, directory(b"a"), 0, 4096, plus=True), plus=True)
    assert records == [(b".", 1, 0), (b"..", 2, 0), (b"a", 3, 2)]


def test_nothing_comes_after_the_last_cookie() -> None:
    entries = directory(b"a", b"b")
    assert encode_directory(1, entries, 4, 4096, plus=False) == b""
    assert encode_directory(1, entries, 1 << 63, 4096, plus=False) == b""


@given(
    names=st.lists(st.binary(min_size=1, max_size=255), max_size=40, unique=True),
    size=st.integers(min_value=440, max_value=4096),
    plus=st.booleans(),
)
def test_a_listing_in_parts_is_whole_and_in_order(
    names: list[bytes], size: int, plus: bool
) -> None:
    entries = directory(*names)
    seen, cookie = [], 0
    while part := encode_directory(1, entries, cookie, size, plus=plus):
        assert len(part) <= size
        assert len(part) % 8 == 0
        records = decode_directory(part, plus=plus)
        seen += [name for name, _, _ in records]
        cookie = records[-1][1]
    assert seen == [b".", b"..", *names]
