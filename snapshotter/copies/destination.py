"""The directory that files of a model are put into. Nothing is ever written outside of it.

Names come from strangers, and the directory may have been prepared by one: every component
below it is opened by itself and is refused when it is a symbolic link (openat(2),
O_NOFOLLOW), so no link in it leads anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from snapshotter.copies.errors import CopyError

WORK = ".modelpack-fetch"
"""Where what is not complete yet lies, below the directory."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Destination:
    """An open directory, made where it is missing. Paths are relative, checked by
    :func:`~snapshotter.artifact.names.check_path`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CopyError(f"cannot use {directory}: {error.strerror}") from None

    def work(self, name: str) -> Path:
        """A directory of ours for what is not complete, on the same file system."""
        for path in (WORK, f"{WORK}/{name}"):
            with self._parent(path) as (parent, last):
                try:
                    os.mkdir(last, 0o700, dir_fd=parent)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise self._failed("make", path, error) from None
                found = os.stat(last, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise CopyError(
                    f"{self.directory / path} is no directory of ours: remove it, or choose "
                    "another directory"
                )
        return self.directory.resolve() / WORK / name

    def look(self, path: str) -> os.stat_result | None:
        """What is there, links not followed; None when nothing is."""
        try:
            with self._parent(path) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("look at", path, error) from None

    @contextmanager
    def reading(self, path: str) -> Iterator[int]:
        """The file there, open for reading."""
        try:
            with self._parent(path) as (parent, name):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            raise self._failed("read", path, error) from None
        try:
            yield fd
        finally:
            os.close(fd)

    def make_directory(self, path: str) -> None:
        """With its parents; fine when it is there."""
        try:
            with self._parent(f"{path}/.", make=True):
                pass
        except OSError as error:
            raise self._failed("make", path, error) from None

    def place(self, source: Path, path: str, *, mode: int, mtime_ns: int) -> os.stat_result:
        """Rename the file ``source`` of ours to ``path``, in place of a file that is there.

        With ``mode``, and ``mtime_ns`` unless that is 0. Atomic: whoever looks sees all of it
        or what was there before. Returns what is there then.
        """
        try:
            fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, mode)
                if mtime_ns:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
            with self._parent(path, make=True) as (parent, name):
                os.rename(source, name, dst_dir_fd=parent)
                with self._lock:
                    self._touched.add(path.rpartition("/")[0])
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise self._failed("write", path, error) from None

    def link(self, target: str, path: str) -> None:
        """A symbolic link; ``target`` was checked not to lead out of the model."""
        try:
            with self._parent(path, make=True) as (parent, name):
                try:
                    if os.readlink(name, dir_fd=parent) == target:
                        return
                except OSError:
                    pass  # nothing there, or no link
                os.symlink(target, name, dir_fd=parent)
        except OSError as error:
            raise self._failed("write", path, error) from None

    def sync(self) -> None:
        """Make the names of what was put here durable."""
        with self._lock:
            touched, self._touched = self._touched, set()
        for path in touched:
            try:
                with self._parent(f"{path}/." if path else ".") as (parent, _):
                    os.fsync(parent)
            except OSError as error:
                raise self._failed("keep", path, error) from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory ``path`` is in, opened component by component, and its last name."""
        *directories, name = path.split("/")
        current = os.dup(self._fd)
        try:
            for place, component in enumerate(directories):
                following = self._enter(current, component, make)
                if following is None:
                    way = "/".join(directories[: place + 1])
                    raise CopyError(
                        f"{self.directory / way} is in the way: it is a symbolic link or a file, "
                        f"and {path[:300]!r} of the model is to lie in it; remove it, or choose "
                        "another directory"
                    )
                os.close(current)
                current = following
            yield current, name
        finally:
            os.close(current)

    @staticmethod
    def _enter(parent: int, name: str, make: bool) -> int | None:
        """None when it is there and no directory."""
        if make:
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                pass
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                return None
            raise

    def _failed(self, what: str, path: str, error: OSError) -> CopyError:
        return CopyError(f"cannot {what} {self.directory / path}: {error.strerror}")
