"""The threads that unpack compressed layers, whoever waits first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from snapshotter.artifact.digest import Digest, algorithm
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.tar import TarIndex
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.documents import DocumentError
from snapshotter.cache.errors import CacheError
from snapshotter.cache.eviction import Kind
from snapshotter.cache.indexes import TarIndexes
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher, LoadedModel, ReadResult
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.unpack.content import Content
from snapshotter.unpack.errors import UnpackError, WrongLayer
from snapshotter.unpack.inflate import Dry
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.stream import Stream, index_content
from snapshotter.unpack.unpacked import Unpacked

log = structlog.get_logger(__name__)

_PAUSE = 5.0
"""Seconds until a layer is tried again that nobody waits for and that did not go on."""
_LOOK = 0.2
_JOIN = 5.0


class _Closing(Exception):
    """The unpacker ends."""


class _Task:
    """A layer being unpacked, and for whom."""

    def __init__(self, unpacked: Unpacked, sources: list[LoadedModel]) -> None:
        self.unpacked = unpacked
        self.sources = sources
        """Models through which its compressed bytes may be fetched, the next to try first."""
        self.claims = 1
        self.lingers = False
        """Goes on although nobody has it, for the mount that will be tried again."""
        self.indexed = False
        """The index was written down."""
        self.busy = False
        self.paused_until = 0.0

    def runs(self, now: float) -> bool:
        """Whether a thread may do a step of it."""
        unpacked = self.unpacked
        waiting = unpacked.urgency > 0 and unpacked.failure is None
        return (
            unpacked.stream is not None and not self.busy and (waiting or now >= self.paused_until)
        )

    @property
    def wanted(self) -> bool:
        draining = self.unpacked.failure is not None and self.unpacked.stream is not None
        return self.claims > 0 or self.lingers or draining


class Unpacker:
    """Compressed layers of all models, each unpacked once. Thread-safe.

    ``on_bad`` is told when what was served of a blob turned out to be wrong. Threads begin
    with the first layer; close it before the fetcher.
    """

    def __init__(
        self,
        store: BlobStore,
        fetcher: Fetcher,
        options: UnpackOptions,
        on_bad: Callable[[Blob], None] = lambda _: None,
    ) -> None:
        self._indexes = TarIndexes(store.root / "indexes")
        self._store = store
        self._fetcher = fetcher
        self._options = options
        self._on_bad = on_bad
        self._tasks: dict[Digest, _Task] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._closed = False

    def claim(self, archive: Archive, origin: BlobOrigin, diff_id: Digest | None) -> Unpacked:
        """The content of ``archive``, being unpacked unless it was already.

        ``diff_id`` is what the model's config says it hashes to. Let go of it with
        :meth:`release`. Raises :class:`CacheError`, and :class:`ArtifactError` when it was
        unpacked and is known to hash to something else.
        """
        digest = archive.descriptor.digest
        blob = self._store.open(digest, archive.descriptor.size)
        with self._lock:
            if self._closed:
                raise UnpackError("no layer can be unpacked: the unpacker is closed")
            task = self._tasks.get(digest)
            if task is None:
                task = self._tasks[digest] = self._begin(archive, blob, diff_id)
            else:
                task.claims += 1
            unpacked = task.unpacked
            if unpacked.stream is not None:
                task.sources.insert(0, self._fetcher.add_model([(blob, origin)]))
                task.paused_until = 0.0
                self._start_threads()
                self._work.notify()
        return unpacked

    def release(self, unpacked: Unpacked, *, go_on: bool = False) -> None:
        """Let go of it. Nobody left: it is unpacked no further, unless told to ``go_on``."""
        with self._lock:
            digest = unpacked.archive.descriptor.digest
            task = self._tasks.get(digest)
            if task is None or task.unpacked is not unpacked:
                return
            task.claims -= 1
            task.lingers = task.lingers or go_on
            if not task.wanted and not task.busy:
                self._forget(digest, task)

    def close(self) -> None:
        """Fail who waits, and end the threads. Idempotent."""
        with self._lock:
            self._closed = True
            tasks, self._tasks = self._tasks, {}
            self._work.notify_all()
        patience = time.monotonic() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, patience - time.monotonic()))
        for task in tasks.values():
            self._drop(task)

    def _begin(self, archive: Archive, blob: Blob, diff_id: Digest | None) -> _Task:
        digest = archive.descriptor.digest
        content = Content(
            self._store.directory(digest, Kind.UNPACKED),
            digest,
            self._store.space,
            self._store.hold(digest),
        )
        # Known as soon as the last header has passed: a daemon that was killed then shows
        # the model again at once, though it has to unpack it anew.
        index, stream = self._indexes.get(digest), None
        if content.record is not None:
            _check_diff_id(archive, content.record.diff_id, diff_id)
            index = index or self._index_again(archive, content)
        else:
            stream = Stream(archive, content, diff_id, self._options.max_ratio)
        return _Task(Unpacked(archive, blob, content, index, stream, self._wake), [])

    def _index_again(self, archive: Archive, content: Content) -> TarIndex:
        index = index_content(content, archive.where)
        self._keep_index(archive.descriptor.digest, index)
        return index

    def _keep_index(self, digest: Digest, index: TarIndex) -> None:
        try:
            self._indexes.put(digest, index)
        except DocumentError as error:
            log.warning("index not kept", digest=digest, error=str(error))

    def _forget(self, digest: Digest, task: _Task) -> None:
        """With the lock held: nobody has it, no thread works on it."""
        if self._tasks.get(digest) is task:
            del self._tasks[digest]
        self._drop(task)

    def _drop(self, task: _Task) -> None:
        for source in task.sources:
            self._fetcher.remove_model(source)
        task.sources.clear()
        task.unpacked.closed()

    def _wake(self) -> None:
        with self._lock:
            self._work.notify()

    # Threads

    def _start_threads(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"modelpack-unpack-{number}", daemon=True)
                for number in range(self._options.threads)
            ]
            for thread in self._threads:
                thread.start()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._step(task)
            except _Closing:
                pass
            except Exception:
                log.exception("unpacking failed unexpectedly", layer=task.unpacked.archive.where)
                self._fail(task, UnpackError(f"{task.unpacked.archive.where}: see the log"))
            finally:
                self._stepped(task)

    def _next(self) -> _Task | None:
        """Wait for a layer to go on with; None at the end."""
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                ready = [task for task in self._tasks.values() if task.runs(now)]
                if ready:
                    # Who waits comes first, then those begun first.
                    task = max(ready, key=lambda task: task.unpacked.urgency)
                    task.busy = True
                    return task
                pauses = [
                    task.paused_until - now
                    for task in self._tasks.values()
                    if task.unpacked.stream is not None and not task.busy
                ]
                self._work.wait(max(0.0, min(pauses)) if pauses else None)
            return None

    def _stepped(self, task: _Task) -> None:
        with self._lock:
            task.busy = False
            unpacked = task.unpacked
            if unpacked.stream is None:
                task.lingers = False
                for source in task.sources:
                    self._fetcher.remove_model(source)
                task.sources.clear()
            if not task.wanted:
                self._forget(unpacked.archive.descriptor.digest, task)

    def _step(self, task: _Task) -> None:
        unpacked = task.unpacked
        stream = unpacked.stream
        assert stream is not None
        attempt = unpacked.attempt()
        try:
            if unpacked.failure is not None:
                self._drain(task, stream)
                return
            try:
                more = stream.step()
            except Dry:
                stream.feed(self._fetch(task, stream))
                task.paused_until = 0.0
                return
            task.paused_until = 0.0
            unpacked.advanced()
            if stream.index is not None and not (task.indexed and more):
                task.indexed = True
                self._keep_index(unpacked.archive.descriptor.digest, stream.index)
        except (FetchError, CacheError) as error:
            task.paused_until = time.monotonic() + _PAUSE
            task.sources.append(task.sources.pop(0))
            log.warning("unpacking does not go on", error=str(error), next_attempt_in=_PAUSE)
            if unpacked.failure is not None:
                unpacked.closed()
            elif unpacked.blob.state is BlobState.BAD:
                # The fetcher hashed it first. What came out until now is as wrong.
                self._fail(task, WrongLayer(f"{unpacked.archive.where}: {error}"))
            else:
                unpacked.troubled(error, attempt)
        except (ArtifactError, UnpackError) as error:
            self._fail(task, error)

    def _fail(self, task: _Task, error: ModelpackError) -> None:
        # The mount that waits for it fails with this error, and reads that do log it themselves.
        log.info("a compressed layer cannot be served", error=str(error))
        self._indexes.remove(task.unpacked.archive.descriptor.digest)
        task.unpacked.failed(error)
        self._on_bad(task.unpacked.blob)

    def _drain(self, task: _Task, stream: Stream) -> None:
        """Fetch the rest of a layer that is malformed: the fetcher then finds out whether wrong
        bytes came, which must not stay in the cache, or whether it is really so."""
        if stream.wanted:
            stream.skip(self._fetch(task, stream))
        else:
            task.unpacked.closed()

    def _fetch(self, task: _Task, stream: Stream) -> bytes:
        """The next compressed bytes. Waits; :class:`FetchError`, :class:`_Closing`."""
        if not stream.wanted:
            return b""
        answered = threading.Event()
        answer: list[bytes | Exception] = []

        def deliver(result: ReadResult) -> None:
            answer.append(result if isinstance(result, Exception) else b"".join(result))
            answered.set()

        blob = task.unpacked.blob
        self._fetcher.read(
            task.sources[0], blob, stream.taken, stream.wanted, ("unpack", blob.digest), deliver
        )
        while not answered.wait(_LOOK):
            if self._closed or not task.wanted:
                raise _Closing
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]


def _check_diff_id(archive: Archive, known: str, said: Digest | None) -> None:
    if said in (None, known, archive.descriptor.digest) or said is None:
        return
    if algorithm(said) == algorithm(Digest(known)):
        raise ArtifactError(
            f"{archive.where}: decompressed it hashes to {known}, but the model's config says "
            f"{said}: refused; build the model again"
        )
