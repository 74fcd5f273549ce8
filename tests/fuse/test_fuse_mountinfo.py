from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fuse.mountinfo import parse_mountinfo

LINE = (
    rb"57 29 0:52 / /mnt/a\040b\134c\011d ro,nosuid,nodev,relatime shared:9 master:2 - "
    rb"fuse.modelpack registry/a\040model ro,user_id=0"
)


def test_names_come_with_octal_escapes() -> None:
    (mount,) = parse_mountinfo(LINE + b"\n")
    assert mount.mount_id == 57
    assert mount.device == "0:52"
    assert mount.mount_point == Path("/mnt/a b\\c\td")
    assert mount.source == "registry/a model"
    assert mount.fstype == "fuse.modelpack"


def test_only_fuse_mounts_are_found() -> None:
    others = [
        b"22 1 8:1 / / rw - ext4 /dev/vda rw",
        b"30 22 0:26 / /sys/fs/fuse/connections rw,relatime - fusectl fusectl rw",
        b"31 22 0:27 / /blk rw - fuseblk /dev/sda1 rw",
    ]
    assert parse_mountinfo(b"\n".join([*others, LINE, b""])) == parse_mountinfo(LINE)


def test_names_that_are_no_utf8_survive() -> None:
    (mount,) = parse_mountinfo(LINE.replace(b"/mnt", b"/\xff"))
    assert bytes(mount.mount_point).startswith(b"/\xff/a b")


@given(st.binary())
def test_any_bytes_are_read_without_an_error(text: bytes) -> None:
    assert parse_mountinfo(text) == []
