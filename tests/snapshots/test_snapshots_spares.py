"""Layers made ahead, which nobody may tell from others."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.snapshots import spares
from snapshotter.snapshots.layers import Layers
from snapshotter.snapshots.spares import Spares, build


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[Spares]:
    spares = Spares(tmp_path / "ahead")
    yield spares
    spares.close()


def _wait_for(spares: Spares, directory: Path) -> None:
    until = time.monotonic() + 30
    while not spares.take(str(directory)):
        assert time.monotonic() < until
        time.sleep(0.01)


def _looks(directory: Path) -> dict[str, tuple[int, int, int]]:
    paths = [directory, *directory.rglob("*")]
    found = {str(path.relative_to(directory)): path.lstat() for path in paths}
    return {name: (one.st_mode, one.st_uid, one.st_gid) for name, one in found.items()}


def test_a_layer_made_ahead_is_as_one_made_when_it_is_wanted(ahead: Spares, tmp_path: Path) -> None:
    _wait_for(ahead, tmp_path / "taken")
    build(str(tmp_path / "built"))
    looks = _looks(tmp_path / "taken")
    assert looks == _looks(tmp_path / "built")
    assert sorted(looks) == [".", "fs", "work"]
    assert stat.S_IMODE(looks["fs"][0]) == 0o755


def test_its_root_directory_is_as_old_as_its_snapshot(ahead: Spares, tmp_path: Path) -> None:
    _wait_for(ahead, tmp_path / "first")
    time.sleep(0.1)
    (tmp_path / "now").touch()  # the kernel's clock of files is a coarse one
    _wait_for(ahead, tmp_path / "second")
    age = (tmp_path / "second" / "fs").stat().st_mtime_ns
    assert age >= (tmp_path / "now").stat().st_mtime_ns


def test_none_is_given_twice(ahead: Spares, tmp_path: Path) -> None:
    for number in range(200):
        _wait_for(ahead, tmp_path / str(number))
    inodes = {(tmp_path / str(number) / "fs").stat().st_ino for number in range(200)}
    assert len(inodes) == 200


def test_what_an_earlier_life_left_is_not_used(tmp_path: Path) -> None:
    left = tmp_path / "ahead" / "1" / "fs"
    left.mkdir(parents=True)
    (left / "file").write_text("of another")
    spares = Spares(tmp_path / "ahead")
    _wait_for(spares, tmp_path / "layer")
    spares.close()
    assert sorted(_looks(tmp_path / "layer")) == [".", "fs", "work"]


def test_a_layer_is_made_when_those_made_ahead_were_deleted(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layers.create(1, None)
    shutil.rmtree(tmp_path / "layers.spare", ignore_errors=True)
    for number in range(2, 200):
        layers.create(number, (1, 2))
    layers.close()
    for number in range(2, 200):
        status = (tmp_path / "layers" / str(number) / "fs").stat()
        assert (status.st_uid, status.st_gid) == (1, 2)


def test_a_directory_in_the_way_is_an_error_and_stays(ahead: Spares, tmp_path: Path) -> None:
    (tmp_path / "there" / "fs").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        _wait_for(ahead, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["fs"]


def test_where_none_can_be_made_it_is_not_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fail(directory: str) -> None:
        tried.append(directory)
        Path(directory).mkdir()
        raise OSError("no room")

    monkeypatch.setattr(spares, "build", fail)
    monkeypatch.setattr(spares, "_PAUSE", 600)
    ahead = Spares(tmp_path / "ahead")
    for _ in range(20):
        ahead._making.result(60)
        assert not ahead.take(str(tmp_path / "layer"))
    ahead._making.result(60)
    ahead.close()
    assert len(tried) == 1
    assert list((tmp_path / "ahead").iterdir()) == []
