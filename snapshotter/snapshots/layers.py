"""The directories of snapshots: ``<root>/<id>/{fs,work}``. Knows nothing of their meaning.

A directory appears finished and disappears at once, both by rename: ``new-*`` is
being built, ``removing-*`` is waiting to be deleted. Whatever else an earlier life
left behind belongs to no snapshot and goes the same way.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import structlog

from snapshotter.artifact.marker import MARKER_LIMIT, MARKER_NAME
from snapshotter.snapshots.errors import SnapshotError
from snapshotter.snapshots.overlay import Layer
from snapshotter.snapshots.snapshot import Usage

log = structlog.get_logger(__name__)

_ASIDE = "removing-"
_BLOCK = 512
"""Unit of ``st_blocks``, stat(2)."""


class Layers:
    """Directories below ``root``. Thread-safe, but for two calls about one id."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SnapshotError(f"cannot make {root} for layers: {error.strerror}") from None
        self._deleter = ThreadPoolExecutor(1, thread_name_prefix="modelpack-delete")
        self._deletions: set[Future[None]] = set()
        self._closing = threading.Event()

    def close(self) -> None:
        """What is not deleted by now is deleted at the next start."""
        self._closing.set()
        self._deleter.shutdown(cancel_futures=True)

    def layer(self, id: int) -> Layer:
        return Layer(self._root / str(id) / "fs", self._root / str(id) / "work")

    def create(self, id: int, owner: tuple[int, int] | None) -> None:
        """An empty layer whose root directory (0755) belongs to ``owner``."""
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self._root))
        try:
            files, work = new / "fs", new / "work"
            for directory, mode in ((files, 0o755), (work, 0o711)):
                directory.mkdir()
                directory.chmod(mode)  # whatever the umask
            if owner is not None:
                os.chown(files, *owner)
            new.rename(self._root / str(id))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def owner(self, id: int) -> tuple[int, int]:
        """UID and GID of the layer's root directory."""
        status = self.layer(id).files.lstat()
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
        files = self.layer(id).files
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
        """Allocated bytes and inodes of the layer's files; other file systems in it are not ours.

        Files may come and go meanwhile.
        """
        root = self.layer(id).files
        device = root.lstat().st_dev
        seen: dict[int, int] = {}
        directories = [root]
        while directories:
            directory = directories.pop()
            try:
                status = directory.lstat()
                if status.st_dev != device:
                    continue
                seen[status.st_ino] = status.st_blocks
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(Path(entry.path))
                        else:
                            status = entry.stat(follow_symlinks=False)
                            seen[status.st_ino] = status.st_blocks
            except FileNotFoundError:
                continue
        return Usage(sum(seen.values()) * _BLOCK, len(seen))

    def discard(self, id: int) -> None:
        """Undo :meth:`create`: nobody has used the layer yet."""
        shutil.rmtree(self._root / str(id), ignore_errors=True)

    def set_aside(self, id: int) -> None:
        """Out of the way, at once; :meth:`put_back` or :meth:`delete` comes next."""
        try:
            (self._root / str(id)).rename(self._aside(id))
        except FileNotFoundError:
            log.warning("layer was gone already", path=str(self._root / str(id)))

    def put_back(self, id: int) -> None:
        """Undo :meth:`set_aside`."""
        if self._aside(id).exists():
            self._aside(id).rename(self._root / str(id))

    def delete(self, id: int) -> None:
        """Delete what was set aside, soon."""
        self._delete_soon(self._aside(id))

    def sweep(self, living: Collection[int]) -> None:
        """Put in order what a life that ended suddenly left; the names are free on return.

        A removal that was not recorded did not happen; what else belongs to no snapshot
        in ``living`` is deleted, soon.
        """
        keep = {str(id) for id in living}
        for path in list(self._root.iterdir()):
            if path.name in keep:
                continue
            if path.name.removeprefix(_ASIDE) in keep:
                path.rename(self._root / path.name.removeprefix(_ASIDE))
                continue
            if not path.name.startswith(_ASIDE):
                path = path.rename(self._aside(f"{path.name}-{secrets.token_hex(4)}"))
            self._delete_soon(path)

    def wait(self) -> None:
        """Until all deletions asked for so far are done."""
        wait(set(self._deletions))

    def _aside(self, name: object) -> Path:
        return self._root / f"{_ASIDE}{name}"

    def _delete_soon(self, path: Path) -> None:
        if self._closing.is_set():
            return
        deletion = self._deleter.submit(self._delete, path)
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)

    def _delete(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass  # asked for twice
        except OSError as error:
            log.warning("cannot delete yet", path=str(path), why=str(error))
