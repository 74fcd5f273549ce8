"""The files of a directory that go into a model."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.names import check_path
from snapshotter.opening import open_resolved
from snapshotter.pack.errors import BuildError

SKIPPED = (
    ".git", ".gitattributes", ".gitignore", ".gitmodules", ".hg", ".svn", ".bzr",
    ".cache", ".huggingface", ".modelpack", "__pycache__", ".ipynb_checkpoints", ".DS_Store",
)  # fmt: skip
"""Names left out at every level: what tools leave beside a model."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file and the path it gets in the model."""

    path: str
    source: Path
    """Where its bytes are: links have been followed."""
    size: int
    mtime_ns: int
    executable: bool
    outside: bool
    """A link leads to it out of the directory."""


def walk(directory: Path, exclude: Sequence[str] = ()) -> list[SourceFile]:
    """All files under ``directory``, sorted by path.

    Links to files are followed, for model hubs' snapshot directories are made
    of them. ``exclude`` holds shell patterns for paths or names. Raises
    :class:`BuildError` for whatever cannot be a file of a model.
    """
    try:
        root = directory.resolve(strict=True)
        if not root.is_dir():
            raise BuildError(f"{directory} is no directory: give the one that holds the model")
    except (OSError, RuntimeError) as error:
        raise BuildError(f"{directory} cannot be read: {_why(error)}") from None
    files = sorted(_walk(root, root, exclude), key=lambda file: file.path)
    if not files:
        raise BuildError(f"{directory} holds no files, so there is no model to build")
    return files


def _walk(root: Path, directory: Path, exclude: Sequence[str]) -> Iterator[SourceFile]:
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError as error:
        raise BuildError(f"{directory} cannot be read: {_why(error)}") from None
    for entry in found:
        path = os.path.relpath(entry.path, root)
        if entry.name in SKIPPED or _excluded(path, entry.name, exclude):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, Path(entry.path), exclude)
        else:
            yield _file(root, path, Path(entry.path))


def _file(root: Path, path: str, where: Path) -> SourceFile:
    try:
        check_path(path, str(root))
    except ArtifactError as error:
        raise BuildError(f"{_shown(error)}; rename the file or leave it out") from None
    try:
        source = where.resolve(strict=True)
        status = source.stat()
        if stat.S_ISREG(status.st_mode):
            with open_resolved(source):
                pass  # an unreadable file is better found before an hour of hashing
    except (OSError, RuntimeError) as error:
        raise BuildError(f"{_shown(where)} cannot be read: {_why(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise BuildError(f"{where} links to a directory: put the directory there, or leave it out")
    if not stat.S_ISREG(status.st_mode):
        raise BuildError(f"{where} is no regular file: a model cannot hold devices and sockets")
    return SourceFile(
        path=path,
        source=source,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        executable=bool(status.st_mode & stat.S_IXUSR),
        outside=not source.is_relative_to(root),
    )


def _excluded(path: str, name: str, exclude: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase(name, p) for p in exclude)


def _shown(thing: object) -> str:
    """Names need not be text; messages must."""
    return str(thing).encode("utf-8", "backslashreplace").decode()


def _why(error: OSError | RuntimeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
