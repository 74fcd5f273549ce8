from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapshotter.opening import open_resolved
from snapshotter.pack.errors import BuildError
from snapshotter.pack.hashing import Job, hash_all
from snapshotter.pack.progress import Silent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path.resolve() / "a" / "b" / "weights"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def test_a_file_is_opened_by_its_path(file: Path) -> None:
    with open_resolved(file) as opened:
        assert opened.read() == b"weights"


@pytest.mark.parametrize("level", [0, 1])
def test_a_link_that_took_the_place_of_a_part_of_the_path_is_not_followed(
    file: Path, level: int
) -> None:
    replaced = (file, *file.parents)[level]
    moved = replaced.with_name("moved")
    replaced.rename(moved)
    replaced.symlink_to(moved)
    assert file.read_bytes() == b"weights"
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        open_resolved(file)


def test_what_is_no_regular_file_is_not_waited_for(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="no regular file"):
        open_resolved(file)


def test_a_file_of_a_build_that_became_a_link_is_not_read(file: Path, tmp_path: Path) -> None:
    status = file.stat()
    secret = tmp_path / "secret"
    file.rename(secret)
    file.symlink_to(secret)
    with pytest.raises(BuildError, match="cannot be read"):
        hash_all([Job(file, status.st_size, status.st_mtime_ns)], Silent())
