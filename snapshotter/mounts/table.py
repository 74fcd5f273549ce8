"""The models mounted on this node: one FUSE mount each, shared by all who use it.

A mount is made at the first use and detached when the last user let go. Its server
goes on until the kernel says that nobody holds a file any more, which may be much
later: containers keep what they have mounted.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import structlog

from fuse.mount import unmount
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.keeper.keeping import Keeping
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.identity import Identity
from snapshotter.mounts.inheritance import Inherited
from snapshotter.mounts.leftovers import detach_leftovers, heirlooms, remove_empty
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.serving import Serving

log = structlog.get_logger(__name__)

_ADOPTION_SECONDS = 10.0
"""How long the start waits for mounts of an earlier life to be served on: longer is only a
registry's, without which one of them cannot be."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
"""Seconds between attempts to serve such a mount on."""
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
    """Mount points below ``root``, one for each manifest digest and choice of files. Thread-safe.

    A model that is asked for in several registries is mounted once, and read from whichever
    of them gives its bytes.
    """

    def __init__(
        self,
        root: Path,
        loader: Loader,
        fetcher: Fetcher,
        options: MountOptions,
        keeper: Keeping | None = None,
    ) -> None:
        """With a ``keeper`` mounts outlive us; those of an earlier life that it holds wait
        for :meth:`adopt`."""
        self._keeper = keeper
        self._root = root.resolve()
        self._loader = loader
        self._fetcher = fetcher
        self._options = options
        self._lock = threading.Lock()
        self._closed = False
        self._places: dict[Identity, _Place] = {}
        self._alive: dict[Serving, None] = {}  # a set that keeps its order
        self._closing = threading.Event()
        self._orphans: set[Path] = set()
        """Directories that show a mount of an earlier life which nobody serves yet."""
        inherited = heirlooms(keeper) if keeper is not None else []
        detach_leftovers(self._root, {found.device: found.id for found in inherited})
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise MountError(f"cannot make {root} for mounts: {error.strerror}") from None
        remove_empty(self._root)
        self._inherited = inherited
        self._orphans = {Path(each.record.directory) for each in inherited if each.shown}

    def adopt(self) -> None:
        """Serve on what an earlier life mounted, once, before anything is mounted: most of it
        when this returns, the rest as soon as it can be."""
        adoptions = [
            threading.Thread(target=self._adopt, args=(each,), name="modelpack-adopt", daemon=True)
            for each in self._inherited
        ]
        for adoption in adoptions:
            adoption.start()
        patience = time.monotonic() + _ADOPTION_SECONDS
        for adoption in adoptions:
            adoption.join(max(0.0, patience - time.monotonic()))

    def mount(self, ref: ModelRef, *, lower: bool = False) -> Path:
        """The directory that shows the model; mounted now unless it is already. ``lower``: it
        is for an overlayfs on top of it.

        Waits for the registry when the manifest is not on this node yet. Raises
        :class:`ModelpackError` and leaves nothing mounted when the model cannot be served;
        those who waited for that attempt share its error rather than make one each.
        """
        identity = Identity(ref.digest, ref.selection, self._options.chosen(ref))
        place = self._place(identity)
        place.unwanted = False
        attempts = place.attempts
        try:
            with place.lock:
                if place.serving is None or not place.serving.shows():
                    if place.failure is not None and place.attempts > attempts:
                        asked, failure = place.failure
                        if asked == ref:
                            raise failure.with_traceback(None)
                    place.serving = self._attempt(place, ref, identity)
                elif place.serving.model.ref != ref:
                    self._loader.also_at(place.serving.model, ref)
                if lower:
                    place.serving.keep_nodeids()
                return place.serving.directory
        finally:
            self._settle(place)

    def bears_idmap(self, directory: Path) -> bool:
        """Whether what :meth:`mount` mounted there may be id-mapped."""
        return any(one.idmap for one in self.mounted() if one.directory == directory)

    def release(self, ref: ModelRef) -> None:
        """Nobody needs a new mount of it; whoever has it mounted keeps it.

        Also those of it that were made when other settings left out other files. Never waits:
        a mount under way is taken away by the one who makes it.
        """
        with self._lock:
            places = [
                place
                for identity, place in self._places.items()
                if (identity.digest, identity.asked) == (ref.digest, ref.selection)
            ]
        for place in places:
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

    def reads_itself(self, blob: Blob) -> bool:
        """Whether a file is open so that the kernel reads ``blob`` for it by itself."""
        return any(serving.reads_itself(blob) for serving in self.mounted())

    def withdraw(self, blob: Blob) -> bool:
        """Have the kernel let go of ``blob``, whose bytes are to go; False when it reads it."""
        return all(serving.withdraw(blob) for serving in self.mounted())

    def wanted(self) -> dict[Digest, str]:
        """Manifests of models that somebody has mounted, also those that wait to be served on;
        with what they are called."""
        inherited = {one.record.ref.digest: str(one.record.ref) for one in list(self._inherited)}
        return inherited | {one.model.ref.digest: str(one.model.ref) for one in self.mounted()}

    def leave(self) -> None:
        """Leave to the keeper what it holds; the readers of that wait for the next daemon."""
        with self._lock:
            self._closed = True
        self._closing.set()
        for serving in self.mounted():
            if serving.kept:
                with self._lock:
                    self._alive.pop(serving, None)
                serving.leave()
                log.info("left to the keeper", model=str(serving.model.ref))

    def close(self) -> None:
        """Detach everything and stop serving; readers that are left get ENOTCONN."""
        with self._lock:
            self._closed = True
        self._closing.set()
        for serving in self.mounted():
            self._detach(serving)
        patience = time.monotonic() + _LAST_WORDS_SECONDS
        for serving in self.mounted():
            if not serving.ended.wait(max(0.0, patience - time.monotonic())):
                log.warning("still in use, its readers get ENOTCONN", model=str(serving.model.ref))
            self._finish(serving)

    def _place(self, identity: Identity) -> _Place:
        with self._lock:
            return self._places.setdefault(identity, _Place())

    def _attempt(self, place: _Place, ref: ModelRef, identity: Identity) -> Serving:
        place.failure = None
        try:
            return self._serve(ref, identity)
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

    def _serve(self, ref: ModelRef, identity: Identity) -> Serving:
        model = self._loader.load(ref, identity.chosen)
        directory = self._root / identity.name
        try:
            self._take_away(directory)
            directory.mkdir(exist_ok=True, mode=0o755)
            serving = Serving(
                model,
                directory,
                self._fetcher,
                self._options,
                ended=self._reap,
                keeper=self._keeper,
            )
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

    # What an earlier life left

    def _take_away(self, directory: Path) -> None:
        """A mount there that cannot be served yet must not be in a new one's way: to look at
        it would be to wait for it. Who has it open goes on waiting."""
        with self._lock:
            if directory not in self._orphans:
                return
            self._orphans.discard(directory)
        try:
            unmount(directory, lazy=True)
        except OSError as error:
            log.info("not detached", directory=str(directory), why=str(error))

    def _adopt(self, inherited: Inherited) -> None:
        try:
            self._serve_on(inherited)
        finally:
            self._inherited.remove(inherited)

    def _serve_on(self, inherited: Inherited) -> None:
        """Serve on; until it is known that this will never be."""
        ref = inherited.record.ref
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            try:
                with self._place(inherited.record.identity).lock:
                    self._take_over(ref, inherited)
                return
            except (MountError, ArtifactError) as error:
                log.error("a mount ends, it cannot be served on", model=str(ref), error=str(error))
                self._give_up(inherited)
                return
            except ModelpackError as error:
                log.warning(
                    "a mount waits to be served on",
                    model=str(ref),
                    error=str(error),
                    next_attempt_in=pause,
                )
            except Exception as error:
                log.exception("a mount ends, it cannot be served on", error=str(error))
                self._give_up(inherited)
                return
            self._closing.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _take_over(self, ref: ModelRef, inherited: Inherited) -> None:
        identity = inherited.record.identity
        model = self._loader.load(ref, identity.chosen)
        directory = Path(inherited.record.directory)
        with self._lock:
            closed = self._closed
            shown = directory in self._orphans and inherited.shown
        if closed:
            self._loader.unload(model)
            return
        try:
            serving = Serving(
                model,
                directory,
                self._fetcher,
                self._options,
                ended=self._reap,
                keeper=self._keeper,
                inherited=inherited,
            )
        except BaseException:
            self._loader.unload(model)
            raise
        with self._lock:
            self._alive[serving] = None
            if shown:
                self._orphans.discard(directory)
        if shown:
            self._place(identity).serving = serving
        for blob in model.blobs.values():
            if blob.state is BlobState.VERIFIED:
                serving.verified(blob)  # meanwhile, perhaps
        log.info("served on", model=str(ref), directory=str(directory), shown=shown)

    def _give_up(self, inherited: Inherited) -> None:
        assert self._keeper is not None
        self._take_away(Path(inherited.record.directory))
        self._keeper.drop(inherited.id)
        for fd in (inherited.fd, inherited.ledger_fd):
            os.close(fd)

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
