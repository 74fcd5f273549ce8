"""The directories of snapshots: ``<root>/<id>/{fs,work}``. Knows nothing of their meaning.

A directory is built before its snapshot is recorded and deleted after that was removed.
What an earlier life left belongs to no snapshot, and goes the same way as a removed one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import structlog

from snapshotter.artifact.marker import MARKER_LIMIT, MARKER_NAME
from snapshotter.priority import IDLE, be_nice
from snapshotter.snapshots.errors import SnapshotError
from snapshotter.snapshots.overlay import Layer
from snapshotter.snapshots.snapshot import Usage
from snapshotter.snapshots.spares import Spares, build
from snapshotter.snapshots.trees import measure, remove

log = structlog.get_logger(__name__)

_ASIDE = "removing-"


class Layers:
    """Directories below ``root``. Thread-safe, but for two calls about one id."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SnapshotError(f"cannot make {root} for layers: {error.strerror}") from None
        self._spares = Spares(root.with_name(f"{root.name}.spare"))
        self._deleter = ThreadPoolExecutor(1, "modelpack-delete", be_nice, (IDLE,))
        self._deletions: set[Future[None]] = set()
        self._closing = threading.Event()

    def close(self) -> None:
        """What is not deleted by now is deleted at the next start."""
        self._closing.set()
        self._spares.close()
        self._deleter.shutdown(cancel_futures=True)

    def files(self, id: int) -> str:
        return f"{self._root}/{id}/fs"

    def layer(self, id: int) -> Layer:
        return Layer(self.files(id), f"{self._root}/{id}/work")

    def create(self, id: int, owner: tuple[int, int] | None) -> None:
        """An empty layer whose root directory (0755) belongs to ``owner``.

        Until the snapshot is recorded nobody asks for it.
        """
        directory = f"{self._root}/{id}"
        try:
            if not self._spares.take(directory):
                build(directory)
            if owner is not None:
                os.chown(self.files(id), *owner)
        except BaseException:
            self.discard(id)
            raise

    def owner(self, id: int) -> tuple[int, int]:
        """UID and GID of the layer's root directory."""
        status = os.lstat(self.files(id))
        return status.st_uid, status.st_gid

    def link_model(self, id: int, directory: Path) -> Path:
        """A name for ``directory`` beside the layers.

        containerd shortens an overlay's lowers by their common prefix, without which
        some 80 of them are more than mount(2) takes: they must all be in one place.
        """
        link = self._root / str(id) / "model"
        if not link.is_symlink() or link.readlink() != directory:
            new = link.with_name(f"model-{secrets.token_hex(4)}")
            new.symlink_to(directory)
            new.replace(link)
        return link

    def marker(self, id: int) -> bytes | None:
        """The content of the marker, when the layer holds that regular file and nothing else."""
        files = Path(self.files(id))
        with os.scandir(files) as entries:
            if [entry.name for entry, _ in zip(entries, range(2), strict=False)] != [MARKER_NAME]:
                return None
        try:
            fd = os.open(files / MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # a link, a socket, a whiteout
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MARKER_LIMIT:
                return None
            return os.read(fd, MARKER_LIMIT)
        finally:
            os.close(fd)

    def usage(self, id: int) -> Usage:
        """Allocated bytes and inodes of the layer's files, which may change meanwhile."""
        return measure(Path(self.files(id)))

    def discard(self, id: int) -> None:
        """Undo :meth:`create`: nobody has used the layer yet."""
        shutil.rmtree(self._root / str(id), ignore_errors=True)

    def delete(self, id: int) -> None:
        """Delete a layer nobody will ask for again, soon."""
        self._delete_soon(self._root / str(id))

    def sweep(self, living: Collection[int]) -> None:
        """Delete, soon, what is no layer of those ``living``; the names are free on return.

        Their numbers may be given again: they were never recorded.
        """
        keep = {str(id) for id in living}
        for path in list(self._root.iterdir()):
            if path.name in keep:
                continue
            if not path.name.startswith(_ASIDE):
                aside = self._root / f"{_ASIDE}{path.name}-{secrets.token_hex(4)}"
                try:
                    path = path.rename(aside)
                except FileNotFoundError:
                    continue  # a removed one, which was just deleted
            self._delete_soon(path)

    def missing(self, living: Collection[int]) -> list[int]:
        """Those of ``living`` that have no directory."""
        there = {path.name for path in self._root.iterdir()}
        return sorted(id for id in living if str(id) not in there)

    def wait(self) -> None:
        """Until all deletions asked for so far are done."""
        wait(set(self._deletions))

    def _delete_soon(self, path: Path) -> None:
        if self._closing.is_set():
            return
        deletion = self._deleter.submit(self._delete, path)
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)

    def _delete(self, path: Path) -> None:
        try:
            for directory in (f"{path}/work", f"{path}/fs", path):
                os.rmdir(directory)  # noqa: PTH106  # strings, as in spares.py
            return
        except OSError:
            pass  # something is in it
        try:
            remove(path)
        except FileNotFoundError:
            pass  # asked for twice
        except OSError as error:
            log.warning("cannot delete yet", path=str(path), why=str(error))
