"""Files of a model put into a directory: in parallel, verified, and taken up again after any end.

Blobs come into a cache of their own inside the directory, as a mount's do, so what was
fetched before a SIGKILL is there for the next attempt. Of each blob that is complete and
right its files are put in place, by renaming where the blob is the file.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from snapshotter.artifact.digest import encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layout import File
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.selection import Selection
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheInUse
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.copies.destination import WORK, Destination
from snapshotter.copies.errors import CopyError, WrongBytes
from snapshotter.copies.gathering import gather
from snapshotter.copies.journal import Journal
from snapshotter.copies.local import Source
from snapshotter.copies.placing import Placing
from snapshotter.copies.plan import Plan, plan
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.fetch.options import FetchOptions
from snapshotter.mounts.loader import Loader, Model
from snapshotter.units import Seconds, format_size
from snapshotter.unpack.errors import UnpackError, WrongLayer
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.unpacker import Unpacker

_AT_ONCE = 4
"""Blobs that are waited for, hashed and put in place at the same time."""
_TELL = 0.2
"""Seconds between two looks at how far it is."""
_FLUSH = Seconds(2)
"""Most of what a SIGKILL may cost is what came in this time."""


class Progress(Protocol):
    """As :class:`~snapshotter.cli.progress.BytesBar`: bytes of blobs."""

    def total(self, size: int, /) -> None: ...
    def advance(self, size: int, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    chosen: Selection = field(default_factory=Selection)
    replace: bool = False
    """Put files in place of others that are there."""
    fetch: FetchOptions = field(default_factory=FetchOptions)
    unpack: UnpackOptions = field(default_factory=UnpackOptions)
    rules: Rules = STRICT


@dataclass(frozen=True, slots=True)
class Copied:
    plan: Plan
    kept: frozenset[str]
    """Files that were there already, and are right."""
    fetched_bytes: int
    """This time."""


def copy_model(
    ref: ModelRef, source: Source, directory: Path, options: CopyOptions, progress: Progress
) -> Copied:
    """Put the chosen files of ``ref`` from ``source`` into ``directory``.

    Raises :class:`ModelpackError`; what was fetched then stays for the next attempt, as it
    does after a signal. Files that are there with other content are an error before
    anything is fetched, as far as that is known then, unless ``replace`` says otherwise.
    """
    with Destination(directory) as destination:
        work = destination.work(encoded(ref.digest))
        try:
            copied = _copy(ref, source, destination, work, options, progress)
        except (ArtifactError, UnpackError) as error:
            _forget(work)
            if isinstance(error, WrongLayer):
                raise WrongBytes(str(error)) from None
            raise
    _remove(work)
    return copied


def _copy(
    ref: ModelRef,
    source: Source,
    destination: Destination,
    work: Path,
    options: CopyOptions,
    progress: Progress,
) -> Copied:
    with ExitStack() as stack:
        store = _store(work, destination.directory)
        stack.callback(store.close)
        fetcher = Fetcher(msgspec.structs.replace(options.fetch, background=False))
        stack.callback(fetcher.close)
        unpacker = Unpacker(store, fetcher, options.unpack)
        stack.callback(unpacker.close)
        documents = Documents(work / "documents")
        loader = Loader(source, documents, store, fetcher, unpacker=unpacker, rules=options.rules)
        model = loader.load(ref)
        stack.callback(loader.unload, model)
        wanted = plan(model.layout, options.chosen, reserved=WORK)
        placing = Placing(destination, work, Journal(work), replace=options.replace)
        kept = placing.kept(wanted.files, {blob.digest: blob.size for blob in model.layout.blobs})
        job = _Job(model, fetcher, unpacker, placing, wanted, kept)
        job.check_room(destination.directory)
        job.run(progress)
        for path in wanted.directories:
            destination.make_directory(path)
        for link in wanted.links:
            destination.link(link.target, link.path)
        destination.sync()
        return Copied(wanted, kept | placing.found, fetcher.stats.fetched_bytes)


class _Job:
    """Everything that is missing, a blob at a time in each of some threads."""

    def __init__(
        self,
        model: Model,
        fetcher: Fetcher,
        unpacker: Unpacker,
        placing: Placing,
        wanted: Plan,
        kept: frozenset[str],
    ) -> None:
        self._model = model
        self._fetcher = fetcher
        self._unpacker = unpacker
        self._placing = placing
        self._stopped = threading.Event()
        self._files = wanted.by_blob(kept)
        self._blobs = {
            digest: model.unpacked[digest].blob if digest in model.unpacked else model.blobs[digest]
            for digest in self._files
        }

    def check_room(self, directory: Path) -> None:
        missing = sum(blob.size - blob.present_bytes for blob in self._blobs.values())
        free = shutil.disk_usage(directory).free
        if missing > free:
            raise CopyError(
                f"{directory} has {format_size(free)} free, {format_size(missing)} are to come: "
                "make room, or choose fewer files"
            )

    def run(self, progress: Progress) -> None:
        progress.total(sum(blob.size for blob in self._blobs.values()))
        for digest, unpacked in self._model.unpacked.items():
            if digest not in self._files:
                self._unpacker.release(unpacked)
        plain = [self._blobs[digest] for digest in self._files if digest in self._model.blobs]
        self._fetcher.prefetch(self._model.loaded, [(blob, 0, blob.size) for blob in plain])
        threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="modelpack-copy")
        try:
            working = [threads.submit(self._one, files) for files in self._files.values()]
            self._watch(working, progress)
        except BaseException:
            # Whoever waits for bytes waits no longer.
            self._stopped.set()
            self._unpacker.close()
            self._fetcher.close()
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _watch(self, working: Sequence[Future[None]], progress: Progress) -> None:
        told, left = 0, set(working)
        seen: dict[object, int] = {}
        while left:
            done, left = wait(left, _TELL, FIRST_EXCEPTION)
            for digest, blob in self._blobs.items():
                seen[digest] = max(seen.get(digest, 0), blob.present_bytes)
            progress.advance(sum(seen.values()) - told)
            told = sum(seen.values())
            for future in done:
                future.result()

    def _one(self, files: Sequence[File]) -> None:
        digest = files[0].digest
        unpacked = self._model.unpacked.get(digest)
        if unpacked is not None:
            unpacked.wait()
            self._placing.place(files, unpacked.path, whole=False)
            return
        blob = self._model.blobs[digest]
        gather(self._fetcher, self._model.loaded, blob, self._stopped.is_set)
        blob.flush()
        whole = all(file.offset == 0 and file.size == blob.size for file in files)
        self._placing.place(files, blob.path, whole=whole)


def _store(work: Path, directory: Path) -> BlobStore:
    for data in work.glob("blobs/*/*/data"):
        data.chmod(0o600)  # about to be put in place when the last attempt was killed
    try:
        return BlobStore(work, CacheOptions(flush_interval=_FLUSH))
    except CacheInUse:
        raise CopyError(
            f"another process is copying the same model into {directory}: wait for it, or choose "
            "another directory"
        ) from None


def _forget(work: Path) -> None:
    """A layer does not unpack: what came may be wrong, and the next attempt must not meet it."""
    for name in ("blobs", "unpacked", "indexes"):
        shutil.rmtree(work / name, ignore_errors=True)


def _remove(work: Path) -> None:
    """It is ours alone, mode 0700, and nothing of it is needed any more."""
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.parent.rmdir()
    except OSError:
        pass  # of another model that is not complete
