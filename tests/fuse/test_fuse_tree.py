from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.kernel import FUSE_ROOT_ID
from fuse.reading import ReadRequest
from fuse.tree import Directory, File, Link, Tree


def unread(request: ReadRequest, file: File[None]) -> None:
    raise AssertionError(f"{request} was passed on")


def file(size: int = 5, mode: int = 0o444) -> File[None]:
    return File(None, size, mode)


def names(tree: Tree[None], path: bytes = b"") -> list[bytes]:
    return [entry.name for entry in tree.readdir(tree.nodeid(path))]


def test_directories_between_are_made() -> None:
    tree = Tree({b"a/b/c": file()}, unread)
    assert names(tree) == [b"a"]
    assert names(tree, b"a/b") == [b"c"]
    assert stat.S_ISDIR(tree.getattr(tree.nodeid(b"a")).mode)


def test_a_directory_counts_its_directories_as_links() -> None:
    tree = Tree({b"a/b/c": file(), b"a/d": Directory(), b"a/e": file()}, unread)
    assert tree.getattr(tree.nodeid(b"a")).nlink == 4
    assert tree.getattr(FUSE_ROOT_ID).nlink == 3


def test_attributes_are_those_given() -> None:
    tree = Tree(
        {b"f": File(None, 7, 0o555, 12, 3, 4), b"l": Link(b"f"), b"": Directory(0o500)}, unread
    )
    attr = tree.getattr(tree.nodeid(b"f"))
    assert (attr.size, attr.mtime_ns, attr.uid, attr.gid) == (7, 12, 3, 4)
    assert attr.mode == stat.S_IFREG | 0o555
    assert tree.getattr(FUSE_ROOT_ID).mode == stat.S_IFDIR | 0o500
    assert tree.readlink(tree.nodeid(b"l")) == b"f"
    assert tree.getattr(tree.nodeid(b"l")).size == 1


@given(st.permutations([b"b", b"a", b"a-b", b"c/d", b"c/a", b"c!"]))
def test_nodeids_follow_from_the_paths_alone(order: list[bytes]) -> None:
    tree = Tree({path: file() for path in order}, unread)
    again = Tree({path: file() for path in sorted(order)}, unread)
    for path in (b"", b"c", *order):
        assert tree.nodeid(path) == again.nodeid(path)
    assert names(tree) == names(again) == [b"a", b"a-b", b"b", b"c", b"c!"]


@pytest.mark.parametrize(
    "path", [b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"a\0b", b"n" * 256]
)
def test_an_impossible_path_is_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match="no path"):
        Tree({path: file()}, unread)


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(ValueError, match="which is no directory"):
        Tree({b"a": file(), b"a/b": file()}, unread)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda tree: tree.lookup(1, b"gone"), errno.ENOENT),
        (lambda tree: tree.lookup(tree.nodeid(b"f"), b"x"), errno.ENOTDIR),
        (lambda tree: tree.readdir(tree.nodeid(b"f")), errno.ENOTDIR),
        (lambda tree: tree.open(1, 0), errno.EISDIR),
        (lambda tree: tree.readlink(tree.nodeid(b"f")), errno.EINVAL),
        (lambda tree: tree.getattr(0), errno.ESTALE),
        (lambda tree: tree.getattr(99), errno.ESTALE),
        (lambda tree: tree.getattr(1 << 63), errno.ESTALE),
    ],
)
def test_a_wrong_question_gets_the_right_errno(call, expected: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OSError, match=r".") as raised:
        call(Tree({b"f": file()}, unread))
    assert raised.value.errno == expected


def test_a_renewed_file_has_another_nodeid_and_the_same_inode_number() -> None:
    tree = Tree({b"d/a": file(), b"d/b": file()}, unread)
    old = tree.nodeid(b"d/b")
    assert tree.renew(old) == (tree.nodeid(b"d"), b"b")
    new = tree.nodeid(b"d/b")
    assert new != old
    assert tree.renewed(new)
    assert not tree.renewed(old)
    assert tree.getattr(new) == tree.getattr(old)
    assert [entry.nodeid for entry in tree.readdir(tree.nodeid(b"d"))][1] == new
    assert tree.renew(new) == tree.renew(old)
    assert tree.nodeid(b"d/b") == new


def test_a_successor_that_renewed_nothing_knows_renewed_nodeids() -> None:
    tree = Tree({b"a": file(9)}, unread)
    tree.renew(tree.nodeid(b"a"))
    assert Tree({b"a": file(9)}, unread).getattr(tree.nodeid(b"a")).size == 9
