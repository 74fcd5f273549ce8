from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from fuse_serving import Serve, plain, read_content

from fuse import fusermount
from fuse.mount import MountError, fuse_mounts, mount, unmount
from fuse.session import Session
from fuse.tree import Tree

Child = Callable[..., Popen[str]]

FUSERMOUNT = f"""#!{sys.executable}
import os, socket, sys
sys.path[:] = {sys.path!r}
from fuse.mount import mount, unmount
directory = sys.argv[-1]
if sys.argv[1] == "-u":
    unmount(directory, lazy="-z" in sys.argv)
else:
    if sys.argv[2] == "refuse":
        sys.exit("fusermount3: option refuse\\nis refused")
    fd = mount(directory, fsname="by fusermount3", subtype="modelpack-test")
    with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as ask:
        socket.send_fds(ask, [b"\\0"], [fd])
"""


def test_a_mount_says_what_it_is(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    (found,) = [m for m in fuse_mounts("modelpack-test") if m.mount_point == mounted.directory]
    assert found.source == "a test"
    assert found.fstype == "fuse.modelpack-test"
    assert found.root == "/"
    assert not fuse_mounts("another")
    assert not os.get_inheritable(mounted.fd)


@pytest.mark.parametrize(
    ("make", "number", "message"),
    [
        (lambda path: None, errno.ENOENT, "no such directory; create it"),
        (lambda path: path.write_text("x"), errno.ENOTDIR, "it is no directory"),
    ],
)
def test_where_one_cannot_mount_the_error_names_the_place(
    tmp_path: Path, make: Callable[[Path], object], number: int, message: str
) -> None:
    make(tmp_path / "mnt")
    with pytest.raises(MountError, match=message) as raised:
        mount(tmp_path / "mnt", fsname="x")
    assert raised.value.errno == number
    assert str(tmp_path / "mnt") in str(raised.value)


def test_a_dead_mount_in_the_way_is_explained(serve: Serve) -> None:
    mounted = serve({b"f": plain(b"x")})
    mounted.session.stop()
    os.close(mounted.fd)
    with pytest.raises(MountError, match=r"whose server has ended.*umount") as raised:
        mount(mounted.directory, fsname="x")
    assert raised.value.errno == errno.ENOTCONN


def test_unmounting_what_is_not_mounted_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="nothing is mounted there"):
        unmount(tmp_path)
    with pytest.raises(MountError, match="no such directory"):
        unmount(tmp_path / "gone")


def test_without_root_and_fusermount3_the_package_is_named(child: Child, tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    for above in [place, *place.parents]:
        if above.stat().st_mode & stat.S_IXOTH == 0:
            above.chmod(0o755)
    process = child(
        "import os, sys\n"
        "sys.path[:] = eval(sys.argv[2])\n"
        "from fuse.mount import MountError, mount\n"
        "os.environ['PATH'] = '/nowhere'\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: mount(sys.argv[1], fsname='x')\n"
        "except MountError as error: print(error)",
        place,
        sys.path,
    )
    out, _ = process.communicate()
    assert out == (
        f"cannot mount at {place}: needs root, or fusermount3: install the package fuse3\n"
    )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fusermount3's side of the conversation, with a real mount behind it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "fusermount3").write_text(FUSERMOUNT)
    (programs / "fusermount3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def test_fusermount3_hands_over_the_descriptor(stand_in: None, tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    fd = fusermount.mount(str(place), ["ro"])
    session = Session(fd, Tree({b"f": plain(b"hello")}, read_content))
    try:
        session.start()
        assert not os.get_inheritable(fd)
        assert (place / "f").read_bytes() == b"hello"
        fusermount.unmount(str(place), lazy=False)
        assert session.join(60)
    finally:
        session.stop()
        os.close(fd)
        if any(found.mount_point == place for found in fuse_mounts()):
            unmount(place, lazy=True)


def test_what_fusermount3_says_is_passed_on(stand_in: None, tmp_path: Path) -> None:
    with pytest.raises(MountError, match="fusermount3: option refuse is refused"):
        fusermount.mount(str(tmp_path), ["refuse"])
    with pytest.raises(MountError, match=f"cannot unmount {tmp_path}: "):
        fusermount.unmount(str(tmp_path), lazy=True)
