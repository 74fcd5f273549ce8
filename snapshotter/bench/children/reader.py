"""Reads files as it is told and says how long that took. Standard library only: it starts bare.

Runs with `python -I -S`, so that nothing of ours is in the process that is measured. Buffers
are reused and the interpreter's lock is released in every copy: pread into a buffer, or
memmove from a mapping, which takes the page faults that a model server takes.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import sys
import threading
import time
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_TICK = 0.01
"""Seconds between two points of a time line."""


def _page_aligned(size: int) -> mmap.mmap:
    """A buffer that copies go into at full speed, see :mod:`snapshotter.buffers`."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Job:
    """What one process reads at once."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.paths: list[str] = told["paths"]
        self.streams: list[list[list[int]]] = told["streams"]
        self.block: int = told.get("block", 1 << 20)
        self.mapped: bool = told.get("mapped", False)
        self.wants_latencies: bool = told.get("latencies", False)
        self.points: list[list[tuple[float, int]]] = []
        self.latencies: list[float] = []
        self.errors: list[str] = []

    def run(self) -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        self.points = [[] for _ in self.streams]
        threads = [
            threading.Thread(target=self._stream, args=(number,))
            for number in range(1, len(self.streams))
        ]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        self._stream(0)
        for thread in threads:
            thread.join()
        ended = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_SELF)
        if self.errors:
            return {"error": self.errors[0]}
        return {
            "started": started,
            "ended": ended,
            "bytes": sum(points[-1][1] for points in self.points if points),
            "timeline": _merge(self.points),
            "latencies": self.latencies,
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
        }

    def _stream(self, number: int) -> None:
        try:
            if self.mapped:
                self._read_mapped(number)
            else:
                self._read(number)
        except OSError as error:
            self.errors.append(f"{error.filename or 'reading'}: {error.strerror}")

    def _read(self, number: int) -> None:
        files = {index: os.open(self.paths[index], os.O_RDONLY) for index in self._files(number)}
        buffer = memoryview(_page_aligned(self.block))
        record = _Record(self.points[number], self.latencies if self.wants_latencies else None)
        try:
            for index, offset, length in self.streams[number]:
                fd, end = files[index], offset + length
                while offset < end:
                    count = os.preadv(fd, [buffer[: min(self.block, end - offset)]], offset)
                    if count == 0:
                        raise OSError(0, "shorter than it was said to be", self.paths[index])
                    offset += count
                    record.read(count)
        finally:
            record.end()
            for fd in files.values():
                os.close(fd)

    def _read_mapped(self, number: int) -> None:
        maps = {index: _Mapping(self.paths[index]) for index in self._files(number)}
        keep = _page_aligned(self.block)
        target = ctypes.addressof(ctypes.c_char.from_buffer(keep))
        record = _Record(self.points[number], self.latencies if self.wants_latencies else None)
        try:
            for index, offset, length in self.streams[number]:
                base, end = maps[index].address, offset + length
                while offset < end:
                    count = min(self.block, end - offset)
                    ctypes.memmove(target, base + offset, count)
                    offset += count
                    record.read(count)
        finally:
            record.end()
            for mapping in maps.values():
                mapping.close()

    def _files(self, number: int) -> set[int]:
        return {index for index, _, _ in self.streams[number]}


class _Mapping:
    """A whole file, mapped for reading. Python's own mmap gives no address of read-only ones."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(fd).st_size
            address = _libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        finally:
            os.close(fd)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        self.address: int = address

    def close(self) -> None:
        _libc.munmap(self.address, self.size)


class _Record:
    """Bytes over time of one stream, and how long each read took."""

    def __init__(self, points: list[tuple[float, int]], latencies: list[float] | None) -> None:
        self._points = points
        self._latencies = latencies
        self._total = 0
        self._last = self._next = time.monotonic()

    def read(self, count: int) -> None:
        self._total += count
        now = time.monotonic()
        if self._latencies is not None:
            self._latencies.append(now - self._last)
            self._last = now
        if now >= self._next:
            self._points.append((now, self._total))
            self._next = now + _TICK

    def end(self) -> None:
        self._points.append((time.monotonic(), self._total))


def _merge(streams: list[list[tuple[float, int]]]) -> list[tuple[float, int]]:
    """The sum of some growing counts, each known at times of its own."""
    steps: list[tuple[float, int]] = []
    for points in streams:
        before = 0
        for at, count in points:
            steps.append((at, count - before))
            before = count
    merged: list[tuple[float, int]] = []
    total = 0
    for at, more in sorted(steps):
        total += more
        merged.append((at, total))
    return merged


def walk(directory: str) -> dict[str, Any]:
    """Every directory listed and every file asked for its size, as a model server does first."""
    files = total = 0
    started = time.monotonic()
    for parent, _, names in os.walk(directory):
        for name in names:
            total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118
            files += 1
    return {"started": started, "ended": time.monotonic(), "files": files, "bytes": total}


def main() -> None:
    for line in sys.stdin:
        told = json.loads(line)
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        try:
            answer = walk(told["directory"]) if "directory" in told else Job(told).run()
        except OSError as error:
            answer = {"error": f"{error.filename}: {error.strerror}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
