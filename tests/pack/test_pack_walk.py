from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from snapshotter.pack.errors import BuildError
from snapshotter.pack.walk import walk


def paths(directory: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    return [file.path for file in walk(directory, exclude)]


def test_files_come_sorted_and_what_tools_leave_is_skipped(tmp_path: Path) -> None:
    for name in ("b.json", "a/z.bin", "a/.git/config", ".cache/x", ".gitattributes", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(tmp_path) == [".hidden", "a/z.bin", "b.json"]
    assert paths(tmp_path, ("*.json", ".hidden")) == ["a/z.bin"]
    assert paths(tmp_path, ("a/*",)) == [".hidden", "b.json"]


def test_a_hubs_snapshot_of_links_is_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0123").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    (snapshot / "copy.safetensors").symlink_to("model.safetensors")
    (file, copy) = reversed(walk(snapshot))
    assert (file.path, file.source, file.outside) == ("model.safetensors", blobs / "0123", True)
    assert copy.source == file.source
    (inside,) = [f for f in walk(tmp_path) if f.path == "blobs/0123"]
    assert not inside.outside


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "link").symlink_to("real")
    assert not walk(tmp_path / "link")[0].outside


def refused(directory: Path, match: str) -> None:
    with pytest.raises(BuildError, match=match) as caught:
        walk(directory)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(".")
    refused(tmp_path, "links to a directory")


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").symlink_to("missing")
    refused(tmp_path, r"model\.bin cannot be read: No such file")


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").symlink_to("model.bin")
    refused(tmp_path, r"model\.bin cannot be read")


def test_pipes_and_sockets_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path, "no regular file")
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        refused(tmp_path, "no regular file")


@pytest.mark.parametrize("name", [b"a\nb", b"a\\b", b"\xff\xfe"])
def test_a_name_no_mount_could_show_is_refused(tmp_path: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):  # noqa: PTH118 - bytes
        pass
    refused(tmp_path, "rename the file")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    refused(tmp_path, "holds no files")


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "no directory")
    refused(tmp_path / "missing", "cannot be read")
