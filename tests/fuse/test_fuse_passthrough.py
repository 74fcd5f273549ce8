"""Files the kernel reads itself from a backing file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from fuse_serving import Mounted, Serve, plain, until

from fuse.negotiate import SessionOptions
from fuse.operations import Opened
from fuse.reading import ReadRequest
from fuse.tree import File, Tree

Child = Callable[..., Popen[str]]
BACKED = b"from the backing file" * 1000
SERVED = b"what our process says" * 1000


def read_served(request: ReadRequest, file: File[bytes]) -> None:
    request.reply(SERVED[request.offset : request.offset + request.size])


class Backed:
    """A mount of ``f``, opened with passthrough for nodeids that :attr:`ids` knows."""

    def __init__(self, serve: Serve, tmp_path: Path) -> None:
        self.backing = tmp_path / "backing"
        self.backing.write_bytes(BACKED)
        self.ids: dict[int, int] = {}
        self.released: list[int] = []
        self.tree = Tree(
            {b"f": plain(SERVED)},
            read_served,
            open=lambda nodeid, file: Opened(fh=5, backing_id=self.ids.get(nodeid, 0)),
            release=lambda nodeid, fh, file: self.released.append(fh),
        )
        self.mounted: Mounted = serve(self.tree)
        assert self.mounted.session.wait_initialised(60)

    @property
    def file(self) -> Path:
        return self.mounted.directory / "f"

    def open_backing(self) -> int:
        with open(self.backing, "rb") as file:
            return self.mounted.session.open_backing(file.fileno())


def test_the_kernel_reads_the_backing_file(serve: Serve, tmp_path: Path, child: Child) -> None:
    backed = Backed(serve, tmp_path)
    assert backed.mounted.session.passthrough
    backing_id = backed.ids[2] = backed.open_backing()
    assert backing_id > 0
    with open(backed.file, "rb") as file:
        backed.mounted.session.close_backing(backing_id)
        del backed.ids[2]
        assert file.read() == BACKED
        # Who serves may even be gone.
        backed.mounted.session.stop()
        os.close(backed.mounted.fd)
        assert os.pread(file.fileno(), 21, 21) == BACKED[:21]


def test_a_file_that_became_complete_is_upgraded_while_it_is_open(
    serve: Serve, tmp_path: Path
) -> None:
    backed = Backed(serve, tmp_path)
    with open(backed.file, "rb", buffering=0) as before:
        assert before.read(21) == SERVED[:21]
        parent, name = backed.tree.renew(2)
        backed.ids[backed.tree.nodeid(b"f")] = backed.open_backing()
        assert backed.mounted.session.notify_inval_entry(parent, name)
        with open(backed.file, "rb", buffering=0) as after:
            assert after.read(21) == BACKED[:21]
            assert os.fstat(after.fileno()).st_ino == os.fstat(before.fileno()).st_ino
        assert os.pread(before.fileno(), 21, 20_979) == SERVED[20_979:]


def test_release_names_the_handle(serve: Serve, tmp_path: Path) -> None:
    backed = Backed(serve, tmp_path)
    backed.file.read_bytes()
    until(lambda: backed.released)  # close(2) does not wait for it
    assert backed.released == [5]


def test_without_passthrough_there_are_no_backing_files(serve: Serve, tmp_path: Path) -> None:
    mounted = serve({b"f": plain(b"x")}, SessionOptions(passthrough=False))
    assert mounted.session.wait_initialised(60)
    assert not mounted.session.passthrough
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        mounted.session.open_backing(file.fileno())


def test_an_unknown_backing_id_is_an_error(serve: Serve, tmp_path: Path) -> None:
    backed = Backed(serve, tmp_path)
    with pytest.raises(OSError, match=r".") as raised:
        backed.mounted.session.close_backing(77)
    assert raised.value.errno == errno.ENOENT
