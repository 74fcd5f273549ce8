"""From blobs that are right to files in their place."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.layout import File
from snapshotter.copies.destination import Destination
from snapshotter.copies.errors import CopyError
from snapshotter.copies.journal import Journal

_PIECE = 1 << 20
_SHOWN = 5
_NO_COPY = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


class Placing:
    """Knows what is there, and puts the rest beside it. Thread-safe but for `kept`.

    ``work`` is a directory of ours on the file system of ``destination``.
    """

    def __init__(
        self, destination: Destination, work: Path, journal: Journal, *, replace: bool
    ) -> None:
        self._destination = destination
        self._work = work
        self._journal = journal
        self._replace = replace
        self._numbers = count()
        self._lock = threading.Lock()
        self.found: frozenset[str] = frozenset()
        """Files that turned out to be there when they were to be put in place."""

    def kept(self, files: Sequence[File], sizes: Mapping[Digest, int]) -> frozenset[str]:
        """Those that are there and right, as far as that can be told without their blobs.

        ``sizes`` are of the blobs, in bytes. Raises :class:`CopyError` when something else is
        in the place of a file and is not to be replaced.
        """
        with ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="modelpack-look"
        ) as threads:
            verdicts = list(threads.map(lambda file: self._look(file, sizes), files))
        wrong = [
            file.path for file, verdict in zip(files, verdicts, strict=True) if verdict is None
        ]
        if wrong:
            raise self._conflict(wrong)
        return frozenset(
            file.path for file, verdict in zip(files, verdicts, strict=True) if verdict
        )

    def place(self, files: Sequence[File], data: Path, *, whole: bool) -> None:
        """Put ``files`` in place, whose bytes are in ``data`` of ours; that is gone afterwards.

        With ``whole`` it is each of them.
        """
        for number, file in enumerate(files):
            if self._is_there(file, data):
                continue
            last = whole and number == len(files) - 1
            source = data if last else self._copy(data, file)
            placed = self._destination.place(
                source, file.path, mode=file.mode, mtime_ns=file.mtime_ns
            )
            self._journal.add(file.path, file.digest, file.offset, placed)
        # Its map first: without it what is left of the data counts for nothing.
        for name in ("map", "done"):
            (data.parent / name).unlink(missing_ok=True)
        data.unlink(missing_ok=True)

    def _look(self, file: File, sizes: Mapping[Digest, int]) -> bool | None:
        """True: there and right. False: to be copied. None: something else is there."""
        found = self._destination.look(file.path)
        if found is None:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise CopyError(
                f"{self._destination.directory / file.path} is in the way: it is no regular file; "
                "remove it, or choose another directory"
            )
        if self._journal.has(file.path, file.digest, file.offset, found):
            return True
        if found.st_size == file.size:
            if file.compressed or file.size != sizes[file.digest]:
                return False  # what it has to be is known once its blob is here
            if self._digest(file) == encoded(file.digest):
                return True
        return False if self._replace else None

    def _is_there(self, file: File, data: Path) -> bool:
        """Whether the file is there as it lies in ``data``; :class:`CopyError` when another is."""
        found = self._destination.look(file.path)
        if found is None:
            return False
        if stat.S_ISREG(found.st_mode) and self._equal(file, found, data):
            with self._lock:
                self.found |= {file.path}
            return True
        if not self._replace:
            raise self._conflict([file.path])
        return False

    def _equal(self, file: File, found: os.stat_result, data: Path) -> bool:
        if found.st_size != file.size:
            return False
        with self._destination.reading(file.path) as one, open(data, "rb") as other:
            for at in range(0, file.size, _PIECE):
                length = min(_PIECE, file.size - at)
                if os.pread(one, length, at) != os.pread(other.fileno(), length, file.offset + at):
                    return False
        return True

    def _digest(self, file: File) -> str:
        hasher = hashlib.new(algorithm(file.digest))
        with self._destination.reading(file.path) as fd:
            while piece := os.read(fd, _PIECE):
                hasher.update(piece)
        return hasher.hexdigest()

    def _copy(self, data: Path, file: File) -> Path:
        """A file of ours with the bytes of ``file``; shares them on file systems that can."""
        path = self._work / f"new-{next(self._numbers)}"
        path.unlink(missing_ok=True)  # of an attempt that was killed
        try:
            with open(data, "rb") as source, open(path, "xb") as target:
                _copy_range(source.fileno(), file.offset, target.fileno(), file.size)
                os.fdatasync(target.fileno())
        except OSError as error:
            path.unlink(missing_ok=True)
            where = self._destination.directory / file.path
            raise CopyError(f"cannot write {where}: {error.strerror}") from None
        return path

    def _conflict(self, paths: Iterable[str]) -> CopyError:
        listed = list(paths)
        shown = ", ".join(repr(path[:200]) for path in listed[:_SHOWN])
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        return CopyError(
            f"{self._destination.directory} has {shown}{more} with other content than the model: "
            "--force puts the model's in their place"
        )


def _copy_range(source: int, offset: int, target: int, size: int) -> None:
    """``size`` bytes from ``offset`` of one file to the beginning of another."""
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(source, target, size - done, offset + done, done)
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
    while done < size:
        piece = os.pread(source, min(_PIECE, size - done), offset + done)
        if not piece:
            raise OSError(errno.EIO, "the blob is shorter than the file in it")
        view = memoryview(piece)
        while view:
            written = os.pwrite(target, view, done)
            view, done = view[written:], done + written
