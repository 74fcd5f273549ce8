"""The models mounted on this node: one FUSE mount each, shared by all who use it.

A mount is made at the first use and detached when the last user let go. Its server
goes on until the kernel says that nobody holds a file any more, which may be much
later: containers keep what they have mounted.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from fuse.mount import fuse_mounts, unmount
from snapshotter.artifact.digest import Digest, encoded
from snapshotter.artifact.marker import ModelRef
from snapshotter.cache.blob import Blob
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.serving import FILESYSTEM, Serving

log = structlog.get_logger(__name__)

_LAST_WORDS_SECONDS = 2.0
"""How long :meth:`Mounts.close` waits for a kernel that has no reason to take long."""


class _Place:
    """Where one model is mounted, or will be. Its lock is held while that changes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.serving: Serving | None = None
        self.unwanted = False
        """Released while the lock was held: whoever holds it takes the mount away."""
        self.attempts = 0
        self.failure: tuple[ModelRef, ModelpackError] | None = None
        """How the last attempt to mount ended, for those who waited for it."""


class Mounts:
    """Mount points below ``root``, one a manifest digest. Thread-safe.

    A model that is asked for in several registries is mounted once, and read from whichever
    of them gives its bytes.
    """

    def __init__(self, root: Path, loader: Loader, fetcher: Fetcher, options: MountOptions) -> None:
        self._root = root.resolve()
        self._loader = loader
        self._fetcher = fetcher
        self._options = options
        self._lock = threading.Lock()
        self._closed = False
        self._places: dict[Digest, _Place] = {}
        self._alive: dict[Serving, None] = {}  # a set that keeps its order
        _detach_leftovers(self._root)
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise MountError(f"cannot make {root} for mounts: {error.strerror}") from None

    def mount(self, ref: ModelRef) -> Path:
        """The directory that shows the model; mounted now unless it is already.

        Waits for the registry when the manifest is not on this node yet. Raises
        :class:`ModelpackError` and leaves nothing mounted when the model cannot be served;
        those who waited for that attempt share its error rather than make one each.
        """
        place = self._place(ref.digest)
        place.unwanted = False
        attempts = place.attempts
        try:
            with place.lock:
                if place.serving is None or not place.serving.shows():
                    if place.failure is not None and place.attempts > attempts:
                        asked, failure = place.failure
                        if asked == ref:
                            raise failure.with_traceback(None)
                    place.serving = self._attempt(place, ref)
                elif place.serving.model.ref != ref:
                    self._loader.also_at(place.serving.model, ref)
                return place.serving.directory
        finally:
            self._settle(place)

    def release(self, ref: ModelRef) -> None:
        """Nobody needs a new mount of it; whoever has it mounted keeps it.

        Never waits: a mount under way is taken away by the one who makes it.
        """
        place = self._place(ref.digest)
        place.unwanted = True
        self._settle(place)

    def mounted(self) -> list[Serving]:
        """All that are being served, detached ones too, oldest first."""
        with self._lock:
            return list(self._alive)

    def verified(self, blob: Blob) -> None:
        """For the fetcher to tell that ``blob`` is complete and right."""
        for serving in self.mounted():
            serving.verified(blob)

    def condemned(self, blob: Blob) -> None:
        """For the fetcher to tell that ``blob`` came wrong."""
        for serving in self.mounted():
            serving.condemned(blob)

    def close(self) -> None:
        """Detach everything and stop serving; readers that are left get ENOTCONN."""
        with self._lock:
            self._closed = True
        for serving in self.mounted():
            self._detach(serving)
        patience = time.monotonic() + _LAST_WORDS_SECONDS
        for serving in self.mounted():
            if not serving.ended.wait(max(0.0, patience - time.monotonic())):
                log.warning("still in use, its readers get ENOTCONN", model=str(serving.model.ref))
            self._finish(serving)

    def _place(self, digest: Digest) -> _Place:
        with self._lock:
            return self._places.setdefault(digest, _Place())

    def _attempt(self, place: _Place, ref: ModelRef) -> Serving:
        place.failure = None
        try:
            return self._serve(ref)
        except ModelpackError as error:
            place.failure = ref, error
            raise
        finally:
            place.attempts += 1

    def _settle(self, place: _Place) -> None:
        # Whoever finds the lock taken leaves it to its holder, who looks again afterwards.
        while place.unwanted and place.lock.acquire(blocking=False):
            try:
                if place.unwanted:
                    place.unwanted = False
                    serving, place.serving = place.serving, None
                    if serving is not None:
                        self._detach(serving)
            finally:
                place.lock.release()

    def _serve(self, ref: ModelRef) -> Serving:
        model = self._loader.load(ref)
        directory = self._root / encoded(ref.digest)
        try:
            directory.mkdir(exist_ok=True, mode=0o755)
            serving = Serving(model, directory, self._fetcher, self._options, ended=self._reap)
        except BaseException as error:
            self._loader.unload(model)
            if isinstance(error, OSError):
                raise MountError(f"cannot make {directory}: {error.strerror}") from None
            raise
        with self._lock:
            self._alive[serving] = None
            closed = self._closed
        if closed:
            self._detach(serving)
            self._finish(serving)
            raise MountError(f"{ref} is not mounted: the daemon is stopping")
        log.info("mounted", model=str(ref), directory=str(directory))
        return serving

    def _detach(self, serving: Serving) -> None:
        try:
            serving.detach()
            serving.directory.rmdir()
        except (MountError, OSError) as error:
            # Somebody else unmounted it, or mounted over it: what counts is that it is gone.
            log.info("not detached", directory=str(serving.directory), why=str(error))

    def _reap(self, serving: Serving) -> None:
        """Called by the server's own thread, which cannot take itself apart."""
        threading.Thread(
            target=self._finish, args=(serving,), name="modelpack-reap", daemon=True
        ).start()

    def _finish(self, serving: Serving) -> None:
        with self._lock:
            if serving not in self._alive:
                return
            del self._alive[serving]
        serving.stop()
        self._loader.unload(serving.model)
        log.info("unmounted", model=str(serving.model.ref))


def _detach_leftovers(root: Path) -> None:
    """Mounts of an earlier life, whose server is gone: they would answer ENOTCONN for ever."""
    for left in reversed(fuse_mounts(FILESYSTEM)):
        if left.mount_point.parent == root:
            try:
                unmount(left.mount_point, lazy=True)
                left.mount_point.rmdir()
            except OSError as error:
                raise MountError(
                    f"cannot remove the mount an earlier daemon left: {error}"
                ) from None
            log.info("removed a mount of an earlier life", directory=str(left.mount_point))
