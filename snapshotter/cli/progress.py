"""Progress bars: on a terminal only, and only for what takes over a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_SILENT_SECONDS = 1.0


class BytesBar:
    """A bar over bytes. Thread-safe; shows nothing during its first second."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None)
        self._started = time.monotonic()
        self._visible = False

    def total(self, size: int, /) -> None:
        self._progress.update(self._task, total=size)

    def advance(self, size: int, /) -> None:
        self._progress.advance(self._task, size)
        if not self._visible and time.monotonic() - self._started > _SILENT_SECONDS:
            self._visible = True
            self._progress.start()


@contextmanager
def bytes_bar(what: str) -> Iterator[BytesBar]:
    """``with bytes_bar("hashing") as bar: bar.total(n); bar.advance(k)``."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    try:
        yield BytesBar(progress, what)
    finally:
        progress.stop()
