"""What is written where: the directory, the journal of what was put there, what is attached."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from snapshotter.artifact.chunks import CHUNK_LIST
from snapshotter.copies.attached import kind_of
from snapshotter.copies.destination import Destination
from snapshotter.copies.errors import CopyError
from snapshotter.copies.journal import Journal


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def test_a_file_is_put_in_place_with_its_mode_and_time(tmp_path: Path, source: Path) -> None:
    with Destination(tmp_path / "new" / "place") as destination:
        placed = destination.place(source, "a/b/c", mode=0o555, mtime_ns=1_234_567_890_123_456_789)
        destination.sync()
    found = (tmp_path / "new" / "place" / "a" / "b" / "c").stat()
    assert stat.S_IMODE(found.st_mode) == 0o555
    assert found.st_mtime_ns == 1_234_567_890_123_456_789
    assert found.st_ino == placed.st_ino
    assert not source.exists()


@pytest.mark.parametrize("way", ["a", "a/b"])
def test_no_path_leads_through_a_link(tmp_path: Path, source: Path, way: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    (target / way).parent.mkdir(parents=True)
    (target / way).symlink_to(outside)
    with Destination(target) as destination:
        with pytest.raises(CopyError, match="symbolic link"):
            destination.place(source, "a/b/c", mode=0o444, mtime_ns=0)
        with pytest.raises(CopyError, match="symbolic link"):
            destination.make_directory("a/b/d")
        with pytest.raises(CopyError, match="symbolic link"):
            destination.link("x", "a/b/e")
        with pytest.raises(CopyError, match="symbolic link"):
            destination.look("a/b/c")
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(
    tmp_path: Path, source: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").symlink_to(victim)
    with Destination(target) as destination:
        with pytest.raises(CopyError), destination.reading("a"):
            pass
        destination.place(source, "a", mode=0o444, mtime_ns=0)
    assert victim.read_bytes() == b"mine"
    assert (target / "a").read_bytes() == b"data"
    assert not (target / "a").is_symlink()


def test_links_of_the_model_are_made_once(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        destination.link("b", "sub/a")
        destination.link("b", "sub/a")
        with pytest.raises(CopyError, match="cannot write"):
            destination.link("c", "sub/a")
    assert str((tmp_path / "sub" / "a").readlink()) == "b"


def test_a_place_that_cannot_be_used_is_an_error(tmp_path: Path, source: Path) -> None:
    with pytest.raises(CopyError, match="cannot use"):
        Destination(source)
    (tmp_path / "a").write_bytes(b"")
    with Destination(tmp_path) as destination:
        with pytest.raises(CopyError, match="in the way"):
            destination.place(source, "a/b", mode=0o444, mtime_ns=0)
        (tmp_path / ".modelpack-fetch").write_bytes(b"")
        with pytest.raises(CopyError, match="no directory of ours"):
            destination.work("x")


def test_a_journal_knows_only_files_nobody_touched(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    journal = Journal(tmp_path)
    journal.add("file", "sha256:1", 5, file.stat())
    journal = Journal(tmp_path)
    assert journal.has("file", "sha256:1", 5, file.stat())
    assert not journal.has("file", "sha256:2", 5, file.stat())
    assert not journal.has("file", "sha256:1", 6, file.stat())
    assert not journal.has("other", "sha256:1", 5, file.stat())
    before = file.stat()
    file.write_bytes(b"DATA")
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock may be a coarse one
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not journal.has("file", "sha256:1", 5, file.stat())


def test_a_torn_line_of_a_journal_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    Journal(tmp_path).add("file", "sha256:1", 0, file.stat())
    whole = (tmp_path / "placed").read_bytes()
    (tmp_path / "placed").write_bytes(whole + whole[:20])
    assert Journal(tmp_path).has("file", "sha256:1", 0, file.stat())
    (tmp_path / "placed").write_bytes(b"\xff" + whole)
    assert not Journal(tmp_path).has("file", "sha256:1", 0, file.stat())


@pytest.mark.parametrize(
    ("artifact_type", "kind"),
    [
        (CHUNK_LIST, "chunk list"),
        ("application/vnd.cncf.notary.signature", "signature"),
        ("application/vnd.dev.cosign.artifact.sig.v1+json", "signature"),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", "signature"),
        ("application/spdx+json", "sbom"),
        ("application/vnd.cyclonedx+json", "sbom"),
        ("application/vnd.in-toto+json", "attestation"),
        ("", "other"),
        ("text/plain", "other"),
    ],
)
def test_what_is_attached_is_known_by_its_type(artifact_type: str, kind: str) -> None:
    assert kind_of(artifact_type) == kind
