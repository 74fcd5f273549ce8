"""What tests of real mounts share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse.mount import MountError, mount, unmount
from fuse.negotiate import SessionOptions
from fuse.operations import Operations
from fuse.reading import ReadRequest
from fuse.session import Session
from fuse.tree import File, Tree


@dataclass
class Mounted:
    """A file system being served."""

    directory: Path
    fd: int
    session: Session


def read_content(request: ReadRequest, file: File[bytes]) -> None:
    request.reply(memoryview(file.content)[request.offset : request.offset + request.size])


def plain(content: bytes, **attributes: int) -> File[bytes]:
    """A file with its bytes."""
    return File(content, len(content), **attributes)


def until(true: Callable[[], object]) -> None:
    """Wait for what happens in another thread or process; the test's timeout ends it."""
    while not true():
        time.sleep(0.005)


class Serve:
    """Mounts trees and operations below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.mounted: list[Mounted] = []

    def __call__(
        self,
        served: Mapping[bytes, Any] | Operations,
        options: SessionOptions | None = None,
        read: Callable[[ReadRequest, File[Any]], None] = read_content,
    ) -> Mounted:
        directory = self._directory / f"mnt{len(self.mounted)}"
        directory.mkdir()
        operations = Tree(served, read) if isinstance(served, Mapping) else served
        fd = mount(directory, fsname="a test", subtype="modelpack-test")
        session = Session(fd, operations, options)
        self.mounted.append(Mounted(directory, fd, session))
        session.start()
        return self.mounted[-1]

    def end(self) -> None:
        for mounted in self.mounted:
            try:
                unmount(mounted.directory, lazy=True)
            except MountError:
                pass  # the test did
            mounted.session.stop()
            try:
                os.close(mounted.fd)
            except OSError:
                pass
