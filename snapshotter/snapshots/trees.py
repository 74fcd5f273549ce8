"""Measuring and deleting what containers and images have made, however they made it.

A container may rename and replace directories while we walk, and may nest them deeper than any
path or recursion reaches. So a directory is opened by its name in the one that is open already,
links are never followed (openat(2), O_NOFOLLOW), and nothing here recurses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from snapshotter.snapshots.snapshot import Usage

_BLOCK = 512
"""Unit of ``st_blocks``, stat(2)."""
_DEEP = 512
"""Directories that are open at one time."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)


def measure(root: Path) -> Usage:
    """Allocated bytes and inodes; other file systems mounted in it are not ours.

    Files may come and go meanwhile. What lies more than 512 directories deep is not counted.
    """
    blocks: dict[int, int] = {}
    device = root.lstat().st_dev

    def look(directory: int) -> list[str]:
        status = os.fstat(directory)
        if status.st_dev != device:
            return []
        blocks[status.st_ino] = status.st_blocks
        inner = []
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(entry.name)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    blocks[status.st_ino] = status.st_blocks
        return inner

    _walk(os.open(root, _DIRECTORY), look)
    return Usage(sum(blocks.values()) * _BLOCK, len(blocks))


def remove(root: Path) -> None:
    """Delete a tree. FileNotFoundError when it is not there, OSError when it cannot be deleted."""
    top = os.open(root, _DIRECTORY)
    moved = 0

    def empty(directory: int) -> list[str]:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            if not is_directory:
                os.unlink(name, dir_fd=directory)
        return [name for name, is_directory in found if is_directory]

    def too_deep(directory: int, name: str) -> None:
        nonlocal moved
        moved += 1
        os.rename(name, f"deep-{moved}-{os.urandom(8).hex()}", src_dir_fd=directory, dst_dir_fd=top)

    try:
        before = -1
        while moved != before:  # what was too deep lies at the top now
            before = moved
            _walk(os.dup(top), empty, too_deep, os.rmdir)
    finally:
        os.close(top)
    root.rmdir()


def _walk(
    top: int,
    look: Callable[[int], list[str]],
    too_deep: Callable[[int, str], None] = lambda *_: None,
    leave: Callable[..., None] = lambda *_, **__: None,
) -> None:
    """``look`` at each directory once, which gives the names of those in it; ``leave`` each but
    ``top``, by its name in the one above, after all that is in it. Closes ``top``."""
    path: list[tuple[int, str, list[str]]] = []
    try:
        path.append((top, "", []))
        path[0][2].extend(look(top))
        while path:
            directory, name, inner = path[-1]
            if inner:
                child = inner.pop()
                if len(path) >= _DEEP:
                    too_deep(directory, child)
                    continue
                try:
                    opened = os.open(child, _DIRECTORY, dir_fd=directory)
                except _GONE:
                    continue
                path.append((opened, child, []))
                path[-1][2].extend(look(opened))
            else:
                path.pop()
                os.close(directory)
                if path:
                    leave(name, dir_fd=path[-1][0])
    finally:
        for directory, _, _ in path:
            os.close(directory)
