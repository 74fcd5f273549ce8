"""Trees that a container made to be walked into: links, depth, changes while we look."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest
from descriptors import open_files

from snapshotter.snapshots.trees import measure, remove

NAME = "d" * 20


def deep(root: Path, levels: int) -> None:
    """Directories in each other, deeper than a path may be long, with a file in the last."""
    root.mkdir()
    directory = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(NAME, dir_fd=directory)
        inner = os.open(NAME, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory))
    os.close(directory)


@pytest.mark.parametrize("levels", [1, 300, 511, 512, 513, 3000])
def test_a_tree_is_deleted_however_deep_it_is(tmp_path: Path, levels: int) -> None:
    deep(tmp_path / "tree", levels)
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_counted_whose_paths_are_longer_than_any_may_be(tmp_path: Path) -> None:
    deep(tmp_path / "tree", 400)
    assert measure(tmp_path / "tree").inodes == 402
    deep(tmp_path / "deeper", 3000)
    assert measure(tmp_path / "deeper").inodes == 512
    for name in ("tree", "deeper"):
        remove(tmp_path / name)  # more than pytest could delete


def test_links_are_neither_followed_nor_spared(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(100_000))
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(outside)
    (tree / "b").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    assert measure(tree).inodes == 5
    assert measure(tree).size < 100_000
    remove(tree)
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_directory_that_becomes_a_link_while_it_is_walked_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(50):
        (outside / f"precious-{number}").write_bytes(b"x")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"d{number}" / "inner").mkdir(parents=True)
    over = threading.Event()

    def swap() -> None:
        chance = random.Random(1)
        while not over.is_set():
            place = tree / f"d{chance.randrange(20)}" / "inner"
            place.rmdir()
            place.symlink_to(outside)
            place.unlink()
            place.mkdir()

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(300):
            assert measure(tree).inodes <= 41
    finally:
        over.set()
        swapping.join()
    assert len(list(outside.iterdir())) == 50


def test_many_directories_beside_each_other_need_few_descriptors(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(2000):
        (tree / f"{number}" / "inner").mkdir(parents=True)
    before = open_files()
    assert measure(tree).inodes == 4001
    remove(tree)
    assert open_files() <= before


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remove(tmp_path / "nothing")
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        remove(tmp_path / "link")
